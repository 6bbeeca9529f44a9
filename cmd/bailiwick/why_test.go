package main

import (
	"bytes"
	"strings"
	"testing"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/control/controlv1"
)

func TestDecisionText(t *testing.T) {
	var out bytes.Buffer
	decisionText(&out, &controlv1.WhyResponse{View: well("n1").View, Decision: &controlv1.Decision{
		Id: "71f76d02", Kind: "connect", Level: "regional", Rule: "caller-not-granted", Title: "The service does not list this caller",
		File: "regional/connect.rego", Line: 18, Reason: "not listed", Revision: "global@1#c71a", At: timestamppb.New(at),
		Verdicts:  []*controlv1.Verdict{{Level: "global", Verdict: "pass"}, {Level: "regional", Verdict: "deny", Rules: []string{"caller-not-granted"}}},
		InputJson: `{"source":{"spiffe_id":"spiffe://west.dev.example/workload/intruder","node":"west-n2"},"service":{"name":"web","region":"east"}}`,
	}})
	want := headline(well("n1").View) + `

DENIED  connect  71f76d02  at 2026-11-21T10:00:00Z
  who     spiffe://west.dev.example/workload/intruder on west-n2
  what    connect to web.east.mesh
  level   regional
  rule    caller-not-granted  The service does not list this caller
  where   regional/connect.rego:18
  reason  not listed
  policy  global@1#c71a
  levels  global pass, regional deny (caller-not-granted)
`
	if !strings.HasPrefix(out.String(), want) {
		t.Errorf("got:\n%s\nwant first:\n%s", out.String(), want)
	}
}

func TestWhatWasDecided(t *testing.T) {
	for _, tt := range []struct {
		in   decisionInput
		want string
	}{
		{decisionInput{Kind: "attest"}, "attest"},
		{decisionInput{Kind: "state_admit"}, "write state"},
		{func() (in decisionInput) { in.Attest.Method = "join_token"; return }(), "attest by join_token"},
		{func() (in decisionInput) { in.Update.Op, in.Update.Key = "put", "/node/n1/x-a/b"; return }(), "put /node/n1/x-a/b"},
		{func() (in decisionInput) { in.Service.Name, in.Service.Region = "web", "east"; return }(), "connect to web.east.mesh"},
	} {
		if got := tt.in.what(); got != tt.want {
			t.Errorf("%q, want %q", got, tt.want)
		}
	}
}
