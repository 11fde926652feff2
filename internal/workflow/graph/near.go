package graph

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// meant suggests the name that is nearest to one that does not exist, or tells all where there are few.
func meant(name string, names []string) string {
	slices.Sort(names)
	best, distance := "", (1+min(len(name), 63))/3
	for _, other := range names {
		if d := edits(name, other, distance); d <= distance && other != name && (best == "" || d < distance) {
			best, distance = other, d
		}
	}
	switch {
	case best != "":
		return fmt.Sprintf(": did you mean %s?", best)
	case len(names) > 0 && len(names) <= 12:
		return ": there are " + strings.Join(names, ", ")
	}
	return ""
}

// edits is how many letters are to be changed, put in or left out to make one name of the other (Levenshtein); more
// than most is not counted further.
func edits(a, b string, most int) int {
	if len(a)-len(b) > most || len(b)-len(a) > most {
		return most + 1
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		corner := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			corner, row[j+1] = row[j+1], min(corner+cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// brief shortens what somebody wrote for a message, and leaves out what cannot be shown.
func brief(text string) string {
	const most = 80
	text = strings.ToValidUTF8(text, "�")
	if len(text) > most {
		cut := most
		for !utf8.RuneStart(text[cut]) {
			cut--
		}
		text = text[:cut] + "…"
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' {
			return '�'
		}
		return r
	}, text)
}
