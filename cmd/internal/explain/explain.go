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

// ErrUnreachable means the node's control socket does not answer.
var ErrUnreachable = errors.New("the node does not answer")

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

// Codes returns all codes in order.
func Codes() []string {
	out := make([]string, 0, len(table))
	for _, e := range table {
		out = append(out, e.Code)
	}
	slices.Sort(out)
	return out
}

// Exit returns the exit code for an error.
func Exit(err error) int {
	if e, ok := Of(err); ok && e.Exit != 0 {
		return e.Exit
	}
	return Failed
}

// Print writes an error for people: its words, its code, the way out.
func Print(w io.Writer, err error) {
	e, ok := Of(err)
	if !ok {
		fmt.Fprintf(w, "bailiwick: %v\n", err)
		return
	}
	fmt.Fprintf(w, "bailiwick: %s: %v\n  what to do: %s (more: bailiwick explain %s)\n", e.Code, err, e.Fix, e.Code)
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
