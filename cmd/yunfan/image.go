package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/spf13/cobra"

	"yunfan.io/yunfan/internal/image"
)

func newImageCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "image", Short: "Pack, check and upload container images"}
	cmd.AddCommand(newImagePackCommand(), newImagePushCommand(), newImageCheckCommand())
	return cmd
}

type packFlags struct {
	recipe               image.Recipe
	files, env, labels   []string
	output, push, mirror string
	cacheDir             string
	refresh              bool
}

func newImagePackCommand() *cobra.Command {
	f := &packFlags{}
	cmd := &cobra.Command{
		Use:   "pack [RECIPE.image.yaml] (--output FILE | --push REGISTRY)",
		Short: "Make an image from files or Debian packages",
		Example: `  yunfan image pack db.image.yaml --output db.tar
  yunfan image pack --name registry.yunfan.internal/demo/web --tag v1 --file bin/web=/web:0755 --entrypoint /web --expose 8080 --output web.tar`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd, args) },
	}
	flags, c := cmd.Flags(), &f.recipe.Config
	flags.StringVar(&f.recipe.Name, "name", "", "repository of the image with its registry")
	flags.StringVar(&f.recipe.Tag, "tag", "", "version of the image")
	flags.StringVar(&f.recipe.Maintainer, "maintainer", "", "person or organisation that answers for the image")
	flags.StringArrayVar(&f.files, "file", nil, "HOST=PATH[:MODE], a file to put into the image (repeatable)")
	flags.StringArrayVar(&c.Entrypoint, "entrypoint", nil, "program to start; further uses add its first arguments")
	flags.StringArrayVar(&c.Cmd, "cmd", nil, "default argument (repeatable)")
	flags.StringArrayVar(&f.env, "env", nil, "KEY=VALUE (repeatable)")
	flags.StringArrayVar(&c.Expose, "expose", nil, "PORT or PORT/PROTOCOL the program listens on (repeatable)")
	flags.StringArrayVar(&c.Volumes, "volume", nil, "path that should be a volume (repeatable)")
	flags.StringVar(&c.User, "user", "", "user the program runs as, UID[:GID]")
	flags.StringArrayVar(&f.labels, "label", nil, "KEY=VALUE (repeatable)")
	flags.StringVar(&c.Workdir, "workdir", "", "working directory")
	flags.StringVarP(&f.output, "output", "o", "", "archive to write")
	flags.StringVar(&f.push, "push", "", "registry to upload to, HOST:PORT or unix:PATH")
	flags.StringVar(&f.mirror, "mirror", image.DefaultMirror, "Debian mirror")
	flags.StringVar(&f.cacheDir, "cache-dir", "", "where Debian layers are kept (default $YUNFAN_CACHE or the user's cache directory)")
	flags.BoolVar(&f.refresh, "refresh", false, "make Debian layers anew, with today's packages")
	cmd.MarkFlagsOneRequired("output", "push")
	return cmd
}

func (f *packFlags) run(cmd *cobra.Command, args []string) error {
	recipe, err := f.merge(args)
	if err != nil {
		return err
	}
	if f.cacheDir == "" {
		if f.cacheDir, err = image.DefaultCacheDir(); err != nil {
			return err
		}
	}
	packer := &image.Packer{CacheDir: f.cacheDir, Mirror: f.mirror, Refresh: f.refresh, Progress: cmd.ErrOrStderr()}
	img, err := packer.Pack(cmd.Context(), recipe)
	if err != nil {
		return err
	}
	ref, err := recipe.Reference()
	if err != nil {
		return err
	}
	if f.output != "" {
		if err := image.WriteArchive(f.output, ref, img); err != nil {
			return err
		}
	}
	if f.push != "" {
		if err := image.Push(cmd.Context(), img, ref, f.push); err != nil {
			return err
		}
	}
	digest, err := img.Digest()
	if err != nil {
		return err
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%s@%s\n", ref, digest)
	return nil
}

// merge lays the flags over the recipe file.
func (f *packFlags) merge(args []string) (*image.Recipe, error) {
	r := &image.Recipe{}
	if len(args) == 1 {
		var err error
		if r, err = image.Load(args[0]); err != nil {
			return nil, err
		}
	}
	for _, s := range f.files {
		file, err := image.ParseFileFlag(s)
		if err != nil {
			return nil, err
		}
		r.Files = append(r.Files, file)
	}
	over, c := &f.recipe, &r.Config
	setString(&r.Name, over.Name)
	setString(&r.Tag, over.Tag)
	setString(&r.Maintainer, over.Maintainer)
	setString(&c.User, over.Config.User)
	setString(&c.Workdir, over.Config.Workdir)
	if len(over.Config.Entrypoint) > 0 {
		c.Entrypoint = over.Config.Entrypoint
	}
	if len(over.Config.Cmd) > 0 {
		c.Cmd = over.Config.Cmd
	}
	c.Expose = append(c.Expose, over.Config.Expose...)
	c.Volumes = append(c.Volumes, over.Config.Volumes...)
	return r, errors.Join(setPairs(&c.Env, f.env, "env"), setPairs(&c.Labels, f.labels, "label"))
}

func setString(to *string, value string) {
	if value != "" {
		*to = value
	}
}

func setPairs(to *map[string]string, pairs []string, flag string) error {
	if *to == nil {
		*to = map[string]string{}
	}
	for _, p := range pairs {
		k, v, ok := strings.Cut(p, "=")
		if !ok || k == "" {
			return fmt.Errorf("--%s %q: write KEY=VALUE", flag, p)
		}
		(*to)[k] = v
	}
	return nil
}

func newImagePushCommand() *cobra.Command {
	to := ""
	cmd := &cobra.Command{
		Use:   "push DIR|ARCHIVE... --to REGISTRY",
		Short: "Upload image archives; what the registry has already is not sent again",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			paths, err := archivePaths(args)
			if err != nil {
				return err
			}
			return image.PushFiles(cmd.Context(), paths, to, cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVar(&to, "to", "", "registry, HOST:PORT or unix:PATH")
	if err := cmd.MarkFlagRequired("to"); err != nil {
		panic(err) // the flag is defined one line above
	}
	return cmd
}

func archivePaths(args []string) ([]string, error) {
	var paths []string
	for _, arg := range args {
		info, err := os.Stat(arg)
		if err != nil {
			return nil, fmt.Errorf("looking for image archives: %w", err)
		}
		if !info.IsDir() {
			paths = append(paths, arg)
			continue
		}
		found, err := image.FindArchives(arg)
		if err != nil {
			return nil, err
		}
		paths = append(paths, found...)
	}
	return paths, nil
}

func newImageCheckCommand() *cobra.Command {
	from, tag := "", ""
	cmd := &cobra.Command{
		Use:   "check ARCHIVE|DOCKERFILE|REFERENCE...",
		Short: "Check images against the packaging rules; exits 1 and names each broken rule",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			broken := 0
			for _, arg := range args {
				violations, err := checkOne(cmd.Context(), arg, from, tag)
				if err != nil {
					return err
				}
				broken += report(cmd.OutOrStdout(), arg, violations)
			}
			if broken > 0 {
				return fmt.Errorf("%d packaging rules are broken", broken)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&from, "from", "", "registry that holds REFERENCE, HOST:PORT or unix:PATH (default: the one in its name)")
	cmd.Flags().StringVar(&tag, "tag", "", "the tag a Dockerfile's image will get")
	return cmd
}

func report(w io.Writer, what string, violations []image.Violation) int {
	if len(violations) == 0 {
		fmt.Fprintf(w, "%s: ok\n", what)
	}
	for _, v := range violations {
		fmt.Fprintf(w, "%s: %s\n", what, v)
	}
	return len(violations)
}

func checkOne(ctx context.Context, arg, from, tag string) ([]image.Violation, error) {
	info, err := os.Stat(arg)
	if err != nil || info.IsDir() {
		return checkReference(ctx, arg, from)
	}
	if filepath.Ext(arg) == ".tar" {
		ref, img, err := image.ReadArchive(arg)
		if err != nil {
			return nil, err
		}
		return image.CheckImage(ref, img)
	}
	f, err := os.Open(arg)
	if err != nil {
		return nil, fmt.Errorf("opening Dockerfile: %w", err)
	}
	defer f.Close()
	return image.CheckDockerfile(f, tag)
}

func checkReference(ctx context.Context, arg, from string) ([]image.Violation, error) {
	ref, err := name.ParseReference(arg)
	if err != nil {
		return nil, fmt.Errorf("%q is neither a file nor an image: %w", arg, err)
	}
	if from == "" {
		from = ref.Context().RegistryStr()
	}
	var img v1.Image
	if img, err = image.Pull(ctx, ref, from); err != nil {
		return nil, err
	}
	return image.CheckImage(ref, img)
}
