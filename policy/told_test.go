package policy

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
)

// Wherever a denial is shown, it says what its author wrote for those whom it refuses; log lines say
// nothing of the input.
func TestDenialsNameTheOwner(t *testing.T) {
	d := engine(t, Config{}, level(Global, Connect, `deny contains "closed" if true`)).Decide(t.Context(), connect())
	if want := d.Title + ", owner " + d.Owner; d.Title == "" || d.Owner == "" || d.Told() != want {
		t.Errorf("%q, want %q", d.Told(), want)
	}
	labelled := level(Global, Connect, "deny contains \"closed\" if true")
	for name, src := range labelled.Modules {
		labelled.Modules[name] = strings.Replace(src, "#   owner:", "#   runbook: r-1\n#   ticket: t-2\n#   owner:", 1)
	}
	l := engine(t, Config{}, labelled).Decide(t.Context(), connect())
	if want := d.Told() + ", runbook=r-1 ticket=t-2"; l.Told() != want {
		t.Errorf("%q, want %q", l.Told(), want)
	}
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Warn("kept back", slog.Any("", d))
	for _, want := range []string{" decision=" + d.ID, " rule=closed", " level=global", " owner=" + d.Owner, " where=global/connect.rego:"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("%q lacks %q", log.String(), want)
		}
	}
	none := engine(t, Config{}, level(Global, Connect, `allow contains "never" if false`)).Decide(t.Context(), connect())
	none.Reason = "as the caller spelt it"
	log.Reset()
	slog.New(slog.NewTextHandler(&log, nil)).Warn("kept back", slog.Any("", none))
	if strings.Contains(log.String(), "spelt") || !strings.Contains(log.String(), "rule="+RuleNoGrant) || none.Told() != none.Reason {
		t.Errorf("%q, told %q", log.String(), none.Told())
	}
}
