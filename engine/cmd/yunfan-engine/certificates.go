package main

import (
	"encoding/json"
	"fmt"
	"os"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"yunfan.io/engine/pki"
)

// listed is a row of the list.
type listed struct {
	pki.Certificate

	Cluster string `json:"cluster"`
	// DaysLeft is negative once it has ended.
	DaysLeft  int    `json:"daysLeft"`
	RenewedBy string `json:"renewedBy"`
}

func certificates(paths pathsFunc) *cobra.Command {
	var output string
	cmd := &cobra.Command{Use: "certificates", Short: "List every certificate with its end", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			rows, err := listCertificates(paths, time.Now())
			if err != nil {
				return err
			}
			switch output {
			case "json":
				encoder := json.NewEncoder(cmd.OutOrStdout())
				encoder.SetIndent("", "  ")
				return encoder.Encode(rows)
			case "":
				w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 2, ' ', 0)
				fmt.Fprintln(w, "CLUSTER\tCERTIFICATE\tSUBJECT\tNOT AFTER\tDAYS LEFT\tRENEWED BY")
				for _, r := range rows {
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%s\n", r.Cluster, r.Name, r.Subject, r.NotAfter.UTC().Format(time.RFC3339), r.DaysLeft, r.RenewedBy)
				}
				return w.Flush()
			}
			return fmt.Errorf("output %q: only json is known", output)
		}}
	cmd.Flags().StringVarP(&output, "output", "o", "", "json, or a table")
	return cmd
}

// listCertificates needs no daemon: it reads the files.
func listCertificates(paths pathsFunc, now time.Time) ([]listed, error) {
	p, err := paths()
	if err != nil {
		return nil, err
	}
	clusters, err := os.ReadDir(p.Clusters())
	if err != nil {
		return nil, fmt.Errorf("no clusters in %s: check --data-dir: %w", p.Data, err)
	}
	out := []listed{}
	for _, c := range clusters {
		all, err := pki.Store{Dir: p.PKI(c.Name())}.List()
		if err != nil {
			return nil, err
		}
		for _, one := range all {
			by := "engine, at two thirds of its life"
			if one.Authority {
				by = "nobody: see docs/certificates.md"
			}
			out = append(out, listed{one, c.Name(), int(one.NotAfter.Sub(now).Hours() / 24), by})
		}
	}
	return out, nil
}
