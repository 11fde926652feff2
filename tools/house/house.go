// Package house holds the rules of the house that no linter knows, as tests: sizes of files and of Reconcile, names of
// packages, package comments, and links between pages. `make verify` runs them.
package house
