package config

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/bailiwick-mesh/bailiwick/policy"
)

func TestTrail(t *testing.T) {
	for text, want := range map[string]Custody{
		"":                             {Interval(5 * time.Minute), 3, 1 << 30},
		"trail: {custody: {every: 0}}": {Never, 3, 1 << 30},
		"trail: {custody: {every: 2s, copies: 2, max_bytes: 512 MiB}}": {Interval(2 * time.Second), 2, 512 << 20},
	} {
		c, err := Parse([]byte(minimal+text+"\n"), "f")
		if err != nil || c.Trail.Custody != want {
			t.Errorf("%q: %+v, %v", text, c.Trail.Custody, err)
		}
	}
	c, err := Parse([]byte(minimal+"trail: {retention: 400d, hold: true}\n"), "f")
	if err != nil || c.Trail.Retention.Duration() != 400*24*time.Hour || c.Trail.Hold != "trail.hold" {
		t.Errorf("%+v, %v", c.Trail, err)
	}
	for _, text := range []string{"0d", "-1d", "36501d", "1y", "24h", "1"} {
		if _, err := Parse([]byte(minimal+"trail: {retention: "+text+"}\n"), "f"); err == nil || !strings.Contains(err.Error(), "want") {
			t.Errorf("%q: %v", text, err)
		}
	}
	for text, want := range map[string]Hold{"false": "", "true": "trail.hold", "case 2026-17": "case 2026-17"} {
		if c, err := Parse([]byte(minimal+"trail: {hold: "+text+"}\n"), "f"); err != nil || c.Trail.Hold != want {
			t.Errorf("hold %s: %q, %v", text, c.Trail.Hold, err)
		}
	}
	for _, text := range []string{`""`, `" x"`, `"a\tb"`, strings.Repeat("x", maxHold+1), "[a]"} {
		if _, err := Parse([]byte(minimal+"trail: {hold: "+text+"}\n"), "f"); err == nil || !strings.Contains(err.Error(), "f:") {
			t.Errorf("hold %s: %v", text, err)
		}
	}
	c, err = Parse([]byte(minimal+"trail: {payloads: [{kinds: [connect, request], for: 30d}, {kinds: [admin], for: 400d}]}\n"), "f")
	if err != nil || len(c.Trail.Payloads) != 2 || c.Trail.Payloads[0].Kinds[1] != policy.HTTPRequest || c.Trail.Payloads[1].For != 400 {
		t.Errorf("%+v, %v", c.Trail.Payloads, err)
	}
	lines := strings.Count(minimal, "\n")
	_, err = Parse([]byte(minimal+"trail:\n  payloads:\n    - kinds: [connect, conect]\n      for: 1y\n    - kinds: [connect]\n      for: 3d\n    - for: 3d\n"), "f")
	for line, want := range map[int]string{3: `trail.payloads[0].kinds[1]: found "conect", want one of`, 4: `trail.payloads[0].for: found "1y"`, 5: `trail.payloads[1].kinds[0]: found "connect", want each kind once`, 7: "trail.payloads[2]: kinds: a list of"} {
		if text := fmt.Sprintf("f:%d: %s", lines+line, want); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("want %s in\n%v", text, err)
		}
	}
	for _, text := range []string{"{every: 10ms}", "{copies: 9}", "{copies: -1}", "{max_bytes: 5}", "{max_bytes: 0MiB}", "{max_bytes: 99999999999GiB}", "{max_bytes: 1TiB}"} {
		if _, err := Parse([]byte(minimal+"trail: {custody: "+text+"}\n"), "f"); err == nil || !strings.Contains(err.Error(), "want") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestOTLP(t *testing.T) {
	for text, want := range map[string]OTLP{
		"endpoint: \"https://logs.example.org:4318/v1/logs\"":                                     {Endpoint: "https://logs.example.org:4318/v1/logs"},
		"endpoint: \"http://127.0.0.1:4318/v1/logs\", roots: /r, token_file: /t, decisions: true": {"http://127.0.0.1:4318/v1/logs", "/r", "/t", true},
		"endpoint: \"http://[::1]:4318/v1/logs\"":                                                 {Endpoint: "http://[::1]:4318/v1/logs"},
	} {
		c, err := Parse([]byte(minimal+"trail: {otlp: {"+text+"}}\n"), "f")
		if err != nil || c.Trail.OTLP == nil || *c.Trail.OTLP != want {
			t.Errorf("%q: %+v, %v", text, c.Trail.OTLP, err)
		}
	}
	for _, text := range []string{"", "decisions: true", "endpoint: \"http://logs.example.org/v1/logs\"", "endpoint: \"https://me:secret@logs.example.org\"", "endpoint: logs", "endpoint: \"ftp://127.0.0.1\"", "endpoint: \"https://h/?a=b\""} {
		_, err := Parse([]byte(minimal+"trail: {otlp: {"+text+"}}\n"), "f")
		if err == nil || !strings.Contains(err.Error(), "https://host:port/v1/logs") {
			t.Errorf("%q: %v", text, err)
		}
	}
}
