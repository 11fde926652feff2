// What Traefik names of its ACME client, without one: certificates come from tenants, not from public authorities.
module github.com/go-acme/lego/v5

go 1.26.0
