// Package explain gives every error an operator can meet a stable code, its
// meaning, what to do, and an exit code.
//
// Packages export plain sentinel errors and know nothing of codes; this table
// is the one place that numbers them. A code is never reused or renumbered. The
// first digit after BW is the area: 1 command and configuration, 2 store and
// trail, 3 TPM and attestation, 4 identity, 5 links and tunnels, 6 signed state,
// 7 policy, 8 quarantine, 9 dev fleet. TestEverySentinelHasACode keeps it whole.
package explain

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
)

// The exit codes of the command.
const (
	OK          = 0
	Failed      = 1
	Usage       = 2
	Unreachable = 3
	Denied      = 4
	Degraded    = 5
)

var (
	// ErrUnreachable means the node's control socket does not answer.
	ErrUnreachable = errors.New("does not answer")

	// ErrRefused means the node answered that the caller may not do this.
	ErrRefused = errors.New("refused")

	// ErrRequest means the node could not make sense of what it was asked.
	ErrRequest = errors.New("malformed request")

	// ErrNotThere means the node has nothing by the name or ID it was asked for.
	ErrNotThere = errors.New("not found")

	// ErrNotNow means the node cannot do this in the state or the role it is in.
	ErrNotNow = errors.New("not possible")
)

// Entry is one code.
type Entry struct {
	Code    string
	Is      error // the sentinel, found with errors.Is
	Title   string
	Meaning string
	Fix     string
	Exit    int // zero means Failed
}

// Find returns the entry of a code, in any case.
func Find(code string) (Entry, bool) {
	for _, e := range table {
		if strings.EqualFold(e.Code, code) {
			return e, true
		}
	}
	return Entry{}, false
}

// Of returns the entry of an error: that of the most particular sentinel in its
// chain, which is the one listed first.
func Of(err error) (Entry, bool) {
	for _, e := range table {
		if errors.Is(err, e.Is) {
			return e, true
		}
	}
	return Entry{}, false
}

// All returns every entry in the order of codes.
func All() []Entry {
	out := slices.Clone(table)
	slices.SortFunc(out, func(a, b Entry) int { return strings.Compare(a.Code, b.Code) })
	return out
}

// Exit returns the exit code for an error.
func Exit(err error) int {
	if e, ok := Of(err); ok && e.Exit != 0 {
		return e.Exit
	}
	return Failed
}

// Print writes an error for people: its words, its code, the way out. An error of
// several lines stands below its code, one line each.
func Print(w io.Writer, err error) {
	words := err.Error()
	e, ok := Of(err)
	if strings.Contains(words, "\n") {
		title := ""
		if ok {
			title = " " + e.Title
		}
		words = title + "\n  " + strings.ReplaceAll(words, "\n", "\n  ")
	} else {
		words = " " + words
	}
	if !ok {
		fmt.Fprintf(w, "bailiwick:%s\n", words)
		return
	}
	fmt.Fprintf(w, "bailiwick: %s:%s\n  what to do: %s (more: bailiwick explain %s)\n", e.Code, words, e.Fix, e.Code)
}

// Attr replaces the error of a log line by its words and adds its code. Give it
// to slog.HandlerOptions.
func Attr(_ []string, a slog.Attr) slog.Attr {
	err, ok := a.Value.Any().(error)
	if !ok {
		return a
	}
	if e, found := Of(err); found {
		return slog.String(a.Key, e.Code+": "+err.Error())
	}
	return slog.String(a.Key, err.Error())
}
