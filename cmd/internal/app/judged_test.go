package app

import (
	"encoding/hex"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/tpm"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/config"
	"github.com/bailiwick-mesh/bailiwick/gossip/summary"
	"github.com/bailiwick-mesh/bailiwick/identity/issuer"
	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/builtin"
	"github.com/bailiwick-mesh/bailiwick/policy/decision"
	"github.com/bailiwick-mesh/bailiwick/policy/quarantine"
)

// The record of a refusal at the issuer says whose evidence it was and what it came by.
func TestRefusedEvidenceIsExplained(t *testing.T) {
	st := openStore(t, t.TempDir()+"/state.db")
	set, _ := testTrust(t)
	log := slog.New(slog.DiscardHandler)
	engine := policy.New(policy.Config{})
	if err := engine.Activate(builtin.Global()); err != nil {
		t.Fatal(err)
	}
	a := &App{cfg: config.Config{Node: nodeN1}, store: st, decisions: decision.New(decision.Config{Engine: engine, Store: st, Dir: t.TempDir()})}
	a.subjects = &subjects{
		self: nodeN1, dir: newDirectory(nodeN1, set, &summary.Tracker{}, log), standing: newStandings(quarantine.NewSet(tdEast, quarantine.Checks{}), st, log, nil),
		attested: func(spiffeid.ID) policyAttestation { return policyAttestation{} },
	}
	ek := [32]byte{1}
	for _, tt := range []struct {
		method, name, rule, says string
		judge                    func() (issuer.Record, error)
	}{
		{"join_token", "ab", "unattested", "attest.unattested_trust_domains", func() (issuer.Record, error) {
			return a.judgeProved(t.Context(), "join_token", issuer.Attested{Name: "ab"})
		}},
		{"tpm_devid", "cd", "devid", "attest.devid_trust_domains", func() (issuer.Record, error) {
			return a.judgeProved(t.Context(), "tpm_devid", issuer.Attested{Name: "cd", EKHash: ek})
		}},
		{"bailiwick_tpm", hex.EncodeToString(ek[:]), "command-line-unproven", "command line", func() (issuer.Record, error) { return a.appraise(t.Context(), tpm.Claims{EKHash: ek}) }},
	} {
		_, err := tt.judge()
		if err == nil || !strings.Contains(err.Error(), "rule "+tt.rule) || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: the machine is told %v", tt.method, err)
		}
		last, err := a.decisions.Last()
		if err != nil {
			t.Fatal(err)
		}
		d := last.Decision()
		var in policy.Input
		if err := json.Unmarshal(d.Input, &in); err != nil {
			t.Fatal(err)
		}
		want := tdEast.IDString() + "/spire/agent/" + tt.method + "/" + tt.name
		if d.Source != want || in.Source == nil || in.Source.SPIFFEID != want || in.Attest.Method != tt.method || d.Rule != tt.rule {
			t.Errorf("%s: %s about %q with input %s", tt.method, d.Explain(), d.Source, d.Input)
		}
	}
}
