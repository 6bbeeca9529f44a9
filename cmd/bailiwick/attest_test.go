package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/control/controlv1"
)

func proven() *controlv1.NodeAttestation {
	return &controlv1.NodeAttestation{
		SpiffeId: "spiffe://east.dev.example/node/n1", AttestedBy: "tpm", EkSha256: strings.Repeat("ab", 32), EkMaker: "id:424C574B",
		Attestation:  &controlv1.Attestation{Ok: true, AgeSeconds: 3, Beacon: 7, BeaconAgeSeconds: 4},
		CommandLines: []string{"/vmlinuz ro"},
		Digests: map[string]*controlv1.Digests{
			"1": {Sha256: []string{"11"}}, "4": {Sha256: []string{"aa", "bb"}}, "8": {Sha256: []string{"cc"}},
		},
	}
}

func TestLearnAndDiff(t *testing.T) {
	before, err := learn(proven(), "n", learnedPCRs)
	if err != nil {
		t.Fatal(err)
	}
	if want := map[string][]string{"4": {"aa", "bb"}, "8": {"cc"}}; !reflect.DeepEqual(before.Digests, want) {
		t.Errorf("learned %v, want %v", before.Digests, want)
	}
	file := filepath.Join(t.TempDir(), "references.json")
	var out bytes.Buffer
	after := before
	after.Name, after.CommandLines, after.Maker = "n+1", []string{"/vmlinuz rw"}, ""
	after.Digests = map[string][]string{"4": {"bb", "aa"}, "8": {"cc", "dd"}, "9": {"ee"}}
	for _, set := range []reference{before, before, after} {
		if err := writeReference(&out, file, set, true); err != nil {
			t.Fatal(err)
		}
	}
	o := &options{out: &out, err: &out}
	a, err := o.boot(file + "#n")
	if err != nil || !reflect.DeepEqual(a, before) {
		t.Fatalf("%+v, %v", a, err)
	}
	b, err := o.boot(file)
	if err != nil || b.Name != "n+1" {
		t.Fatalf("%+v, %v", b, err)
	}
	want := []change{
		{"pcr 4", "the same events in another order", true}, {"pcr 8", "dd", true},
		{"command line", "/vmlinuz ro", false}, {"command line", "/vmlinuz rw", true},
		{"maker", "id:424C574B", false}, {"maker", "-", true},
	}
	if got := diff(a, b); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
	if got := diff(a, a); got != nil {
		t.Errorf("a set differs from itself: %v", got)
	}
	if _, err := o.boot(file + "#other"); !errors.Is(err, errReferences) {
		t.Errorf("unknown set: %v", err)
	}
	if err := os.WriteFile(file, []byte(`{"attest": {"reference": []}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := o.boot(file); !errors.Is(err, errReferences) {
		t.Errorf("another file: %v", err)
	}
	if _, err := learn(&controlv1.NodeAttestation{}, "n", nil); !errors.Is(err, errNotProven) {
		t.Errorf("nothing proven: %v", err)
	}
}

func TestAttestationText(t *testing.T) {
	n := proven()
	refused := &controlv1.NodeAttestation{AttestedBy: "tpm", Attestation: &controlv1.Attestation{Rule: "boot-log-replay", AgeSeconds: 1, BeaconAgeSeconds: -1}}
	for _, tt := range []struct {
		n    *controlv1.NodeAttestation
		want string
	}{
		{n, "ok|3s ago|7, 4s old|0|not proven|/vmlinuz ro"},
		{refused, "refused: boot-log-replay|1s ago|-|-|not proven|-"},
		{&controlv1.NodeAttestation{AttestedBy: "unattested"}, "unattested"},
		{&controlv1.NodeAttestation{AttestedBy: "tpm", Attestation: &controlv1.Attestation{AgeSeconds: -1, BeaconAgeSeconds: -1}}, "waiting|none yet|-|-|not proven|-"},
	} {
		if got := strings.Join(attestationRow(tt.n), "|"); got != tt.want {
			t.Errorf("%q, want %q", got, tt.want)
		}
	}
	n.Checks = []*controlv1.Check{{Rule: "secure-boot", By: "global", Outcome: "failed", Title: "not on", File: "global/attest.rego", Line: 7}}
	var out bytes.Buffer
	explainAttestation(&out, &controlv1.View{Debt: &controlv1.Debt{}, Lease: &controlv1.Lease{}}, n)
	if !strings.Contains(out.String(), "failed   secure-boot  global  not on (global/attest.rego:7)") {
		t.Error(out.String())
	}
}
