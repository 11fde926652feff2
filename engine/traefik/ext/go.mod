// Extension points of Traefik's dynamic configuration, which nobody extends.
module github.com/traefik/traefik/dynamic/ext

go 1.26.0
