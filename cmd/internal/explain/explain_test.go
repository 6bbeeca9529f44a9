package explain

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/identity"
	"github.com/bailiwick-mesh/bailiwick/identity/trust"
	"github.com/bailiwick-mesh/bailiwick/mesh/link"
)

// areas says which areas a package's sentinels may be in: the longest path that
// fits. app is in all, as its errors are about the parts it connects.
var areas = map[string]string{
	"attest/store": "2", "attest/trail": "2", "attest/statement": "2",
	"attest/tpm": "3", "attest/eventlog": "3", "attest/caller": "3", "attest/keyfile": "3",
	"attest/bounded": "1", "identity": "4", "mesh": "5", "gossip": "6", "policy": "7", "policy/quarantine": "8",
	"cmd": "1", "cmd/internal/audit": "2", "cmd/internal/witnessing": "2", "cmd/internal/beside": "2", "cmd/internal/app": "1345678", "cmd/internal/machine": "3", "cmd/internal/enrolling": "4", "cmd/internal/governing": "7", "cmd/internal/issuing": "14", "cmd/internal/dev": "9",
}

// uncoded are the sentinels that have no code, each with the reason.
var uncoded = map[string]string{
	"cmd/bailiwick-archive/archive.ErrUnlocked":    "in a module of its own; its text names the fix",
	"cmd/bailiwick-archive/archive.ErrForeign":     "in a module of its own; its text names the fix",
	"cmd/bailiwick-archive/archive.ErrAccess":      "in a module of its own; its text names the fix",
	"cmd/bailiwick-archive/archive.ErrEndpoint":    "in a module of its own; its text names the fix",
	"cmd/bailiwick-archive/archive.ErrNothing":     "in a module of its own; its text names the fix",
	"cmd/bailiwick-archive/archive.ErrDiverges":    "in a module of its own; its text names the fix",
	"cmd/bailiwick-archive/archive.ErrNotArchived": "in a module of its own; its text names the fix",
	"identity/internal/root.ErrMissing":            "cannot be imported; always wrapped in epoch.ErrNoRoot or issuer.ErrNoCA",
	"identity/internal/root.ErrDamaged":            "cannot be imported; its text names the file and the fix",
	"identity/internal/root.ErrExposed":            "cannot be imported; its text names the file and the fix",
	"identity/internal/root.ErrExists":             "cannot be imported; its text names the file and the fix",
	"identity/internal/root.ErrDevice":             "cannot be imported; wrapped in issuer.ErrRootInTPM",
	"identity/internal/root.ErrOutlived":           "cannot be imported; its text names the root and the fix",
}

func TestEverySentinelHasACode(t *testing.T) {
	coded := map[string]string{}
	for code, name := range codedNames(t) {
		if other, twice := coded[name]; twice {
			t.Errorf("%s has two codes, %s and %s", name, other, code)
		}
		coded[name] = code
	}
	found := sentinels(t)
	if len(found) < 100 {
		t.Fatalf("only %d sentinels seen: this test looks in the wrong place", len(found))
	}
	for _, name := range found {
		_, has := coded[name]
		_, excused := uncoded[name]
		switch {
		case has && excused:
			t.Errorf("%s has a code and is listed as uncoded", name)
		case !has && !excused:
			t.Errorf("%s has no code: add an entry at the end of its area's numbers", name)
		}
	}
	for name := range maps.Keys(uncoded) {
		if !slices.Contains(found, name) {
			t.Errorf("%s is listed as uncoded and does not exist", name)
		}
	}
	for name, code := range coded {
		if want := areaOf(name); !strings.ContainsRune(want, rune(code[2])) {
			t.Errorf("%s: %s belongs to area %s", code, name, want)
		}
	}
}

func TestEntriesAreWhole(t *testing.T) {
	seen, texts := map[string]bool{}, map[string]string{}
	for _, e := range table {
		if seen[e.Code] {
			t.Errorf("%s is used twice", e.Code)
		}
		seen[e.Code] = true
		var n int
		if _, err := fmt.Sscanf(e.Code, "BW%4d", &n); err != nil || len(e.Code) != 6 || n < 1001 || n > 9999 || n%1000 == 0 {
			t.Errorf("%s is not BW and four digits", e.Code)
		}
		if e.Is == nil {
			t.Errorf("%s has no error", e.Code)
		}
		for field, text := range map[string]string{"title": e.Title, "meaning": e.Meaning, "fix": e.Fix} {
			if len(text) < 5 || text != strings.TrimSpace(text) || strings.Contains(text, "\n") {
				t.Errorf("%s: %s is empty or not one line", e.Code, field)
			}
			if field != "title" && !strings.HasSuffix(text, ".") {
				t.Errorf("%s: %s is not a sentence: %q", e.Code, field, text)
			}
		}
		if other, twice := texts[e.Title]; twice {
			t.Errorf("%s and %s have one title", e.Code, other)
		}
		texts[e.Title] = e.Code
		if e.Exit < 0 || e.Exit > Degraded {
			t.Errorf("%s: exit code %d is none of the command's", e.Code, e.Exit)
		}
	}
	// The numbers of an area have no holes: one would be a code that was taken back.
	next := map[byte]int{}
	for _, e := range All() {
		code := e.Code
		next[code[2]]++
		if want := fmt.Sprintf("BW%c%03d", code[2], next[code[2]]); code != want {
			t.Fatalf("%s where %s is due", code, want)
		}
	}
}

// A code that was ever released keeps its meaning. The list only grows.
func TestCodesAreStable(t *testing.T) {
	var b strings.Builder
	names := codedNames(t)
	for _, code := range slices.Sorted(maps.Keys(names)) {
		fmt.Fprintf(&b, "%s %s\n", code, names[code])
	}
	path := filepath.Join("testdata", "codes.txt")
	if os.Getenv("BAILIWICK_UPDATE") != "" {
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := b.String(); got != string(want) {
		old, now := strings.Split(string(want), "\n"), strings.Split(got, "\n")
		for _, line := range old {
			if !slices.Contains(now, line) {
				t.Errorf("was %q: codes are never changed", line)
			}
		}
		for _, line := range now {
			if !slices.Contains(old, line) {
				t.Errorf("new %q: run BAILIWICK_UPDATE=1 go test ./cmd/internal/explain", line)
			}
		}
	}
}

// The most particular sentinel of a chain gives the code.
func TestOf(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want error
		exit int
	}{
		{fmt.Errorf("east-n1: %w", ErrUnreachable), ErrUnreachable, Unreachable},
		{fmt.Errorf("%w: %w", trust.ErrMalformed, statement.ErrMalformed), trust.ErrMalformed, Failed},
		{fmt.Errorf("%w: %w", link.ErrUnauthorized, identity.ErrExpired), identity.ErrExpired, Denied},
		{fmt.Errorf("open: %w", fs.ErrNotExist), nil, Failed},
	} {
		e, ok := Of(tt.err)
		if ok != (tt.want != nil) || e.Is != tt.want {
			t.Errorf("%v: %s %v, want %v", tt.err, e.Code, e.Is, tt.want)
		}
		if got := Exit(tt.err); got != tt.exit {
			t.Errorf("%v: exit %d, want %d", tt.err, got, tt.exit)
		}
	}
}

func TestWords(t *testing.T) {
	err := fmt.Errorf("east-n1: %w", ErrUnreachable)
	var b bytes.Buffer
	Print(&b, err)
	for _, want := range []string{"BW1001", "east-n1", "what to do: Start the node", "bailiwick explain BW1001"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("Print: %q lacks %q", b.String(), want)
		}
	}
	b.Reset()
	Print(&b, errors.New("odd"))
	if got := b.String(); got != "bailiwick: odd\n" {
		t.Errorf("Print of an error without a code: %q", got)
	}
	if got := Attr(nil, slog.Any("err", err)).Value.String(); !strings.HasPrefix(got, "BW1001: ") {
		t.Errorf("Attr: %q", got)
	}
	if _, ok := Find("bw1001"); !ok {
		t.Error("Find does not take lower case")
	}
}
