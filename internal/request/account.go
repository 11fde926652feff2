package request

import (
	"bufio"
	"cmp"
	"context"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"yunfan.io/yunfan/internal/rest"
)

const (
	ledgerPage, maxLedgerPage = 50, 500
	// mostPages bounds what of the ledger is skipped: from and to find older rows.
	mostPages = 10_000
)

// account answers with rows of the ledger: a page of them as JSON, or all of them in a file.
func (r *Requests) account(w http.ResponseWriter, req *http.Request) error {
	query := req.URL.Query()
	chosen, err := r.chosen(req.Context(), query)
	if err != nil {
		return err
	}
	switch format := query.Get("format"); format {
	case "":
		page, err := r.accountPage(req.Context(), chosen, query)
		if err != nil {
			return err
		}
		return rest.WriteJSON(w, http.StatusOK, page)
	case "csv", "json":
		return r.export(req.Context(), w, chosen, format)
	default:
		return badRequest("format=%q: choose csv or json", format)
	}
}

// chosen is which rows the user asks for and may see: those of tenants whose requests he may list.
func (r *Requests) chosen(ctx context.Context, query url.Values) (*where, error) {
	chosen, err := asks(query)
	if err != nil {
		return nil, err
	}
	all, err := r.Authorizer.Allowed(ctx, ask("list", "resourcerequests", "", ""))
	if err != nil || all {
		return chosen, err
	}
	tenants, err := r.ledger.tenants(ctx)
	if err != nil {
		return nil, err
	}
	if tenants, err = r.Authorizer.Namespaces(ctx, ask("list", "resourcerequests", "", ""), tenants); err != nil {
		return nil, err
	}
	chosen.in("tenant", tenants)
	return chosen, nil
}

func (r *Requests) accountPage(ctx context.Context, chosen *where, query url.Values) (*rest.Page[LedgerRow], error) {
	page := &rest.Page[LedgerRow]{Page: 1, PageSize: ledgerPage, Items: []LedgerRow{}}
	for key, into := range map[string]*int{"page": &page.Page, "pageSize": &page.PageSize} {
		most := map[string]int{"page": mostPages, "pageSize": maxLedgerPage}[key]
		text := query.Get(key)
		if text == "" {
			continue
		}
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > most {
			return nil, badRequest("%s=%.20q: give a number from 1 to %d", key, text, most)
		}
		*into = n
	}
	sort := cmp.Or(query.Get("sort"), "-time")
	if sort != "time" && sort != "-time" {
		return nil, badRequest("sort=%.20q: rows are sorted by time, or -time from the newest", sort)
	}
	rows, total, err := r.ledger.page(ctx, chosen, sort == "-time", (page.Page-1)*page.PageSize, page.PageSize)
	if err != nil {
		return nil, err
	}
	page.Items, page.Total = append(page.Items, rows...), total
	return page, nil
}

// export streams all rows in the order of time: a JSON array, or CSV for spreadsheets.
func (r *Requests) export(ctx context.Context, w http.ResponseWriter, chosen *where, format string) error {
	kind := map[string]string{"json": "application/json", "csv": "text/csv; charset=utf-8"}[format]
	buffer := bufio.NewWriter(w)
	write, end := exporter(format, buffer)
	begin := func() {
		w.Header().Set("Content-Type", kind)
		w.Header().Set("Content-Disposition", `attachment; filename="resource-ledger.`+format+`"`)
	}
	started := false
	err := r.ledger.each(ctx, chosen, func(row *LedgerRow) error {
		if !started {
			begin()
			started = true
		}
		return write(row)
	})
	if err != nil {
		return err
	}
	if !started {
		begin()
	}
	if err := end(); err != nil {
		return err
	}
	return buffer.Flush()
}

// exporter gives functions that write a row, and what comes after the last.
func exporter(format string, out io.Writer) (write func(*LedgerRow) error, end func() error) {
	count := 0
	if format == "json" {
		text := func(s string) error { _, err := io.WriteString(out, s); return err }
		return func(row *LedgerRow) error {
				begin := ",\n"
				if count == 0 {
					begin = "[\n"
				}
				count++
				line, err := json.Marshal(row)
				if err != nil {
					return fmt.Errorf("exporting: %w", err)
				}
				return text(begin + string(line))
			}, func() error {
				if count == 0 {
					return text("[]\n")
				}
				return text("\n]\n")
			}
	}
	table := csv.NewWriter(out)
	head := func() error {
		if count++; count > 1 {
			return nil
		}
		return table.Write(csvHeader)
	}
	finish := func() error { table.Flush(); return table.Error() }
	return func(row *LedgerRow) error {
			if err := head(); err != nil {
				return fmt.Errorf("exporting: %w", err)
			}
			if err := table.Write(csvCells(row)); err != nil {
				return fmt.Errorf("exporting: %w", err)
			}
			return finish()
		}, func() error {
			if err := head(); err != nil {
				return fmt.Errorf("exporting: %w", err)
			}
			return finish()
		}
}

var csvHeader = []string{
	"time", "event", "tenant", "request", "uid", "type", "partition", "cluster", "applicant", "actor",
	"asked", "askedUntil", "granted", "grantedUntil", "comment", "evidence",
}

func csvCells(r *LedgerRow) []string {
	asked, granted, evidence := "", "", ""
	if r.Asked != nil {
		asked = words(r.Asked)
	}
	if r.Granted != nil {
		granted = words(r.Granted)
	}
	if r.Evidence != nil {
		evidence = strings.Join(r.Evidence.notes(), " ")
	}
	cells := []string{
		r.Time.Format(time.RFC3339), r.Event, r.Tenant, r.Request, r.UID, string(r.Type), r.Partition, r.Cluster, r.Applicant, r.Actor,
		asked, timeText(r.AskedUntil), granted, timeText(r.GrantedUntil), r.Comment, evidence,
	}
	for i, cell := range cells {
		// A spreadsheet would run a cell that begins so.
		if trimmed := strings.TrimLeft(cell, " \n"); trimmed != "" && strings.ContainsRune("=+-@\t\r\uff1d\uff0b\uff0d\uff20", []rune(trimmed)[0]) {
			cells[i] = "'" + cell
		}
	}
	return cells
}
