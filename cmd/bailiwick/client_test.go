package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/control"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/control/controlv1"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/explain"
	"github.com/bailiwick-mesh/bailiwick/gossip/client/statev1"
)

// answering is a node that says what it is given.
type answering struct {
	controlv1.UnimplementedControlHandler
	statev1.UnimplementedStateHandler
	status *controlv1.StatusResponse
	err    error
}

func (a answering) Status(context.Context, *controlv1.StatusRequest) (*controlv1.StatusResponse, error) {
	return a.status, a.err
}

func (a answering) Put(context.Context, *statev1.PutRequest) (*statev1.WriteResponse, error) {
	return nil, a.err
}

func (a answering) ListCases(context.Context, *controlv1.ListCasesRequest) (*controlv1.ListCasesResponse, error) {
	return &controlv1.ListCasesResponse{View: a.status.View, Cases: []*controlv1.Case{{
		Id: "157b041928bf", Accused: "spiffe://east.dev.example/node/n2", Standing: "quarantined", Class: "equivocation",
		Since: timestamppb.New(at), EvidenceBytes: 994,
	}}}, a.err
}

func (a answering) ShowCase(context.Context, *controlv1.ShowCaseRequest) (*controlv1.ShowCaseResponse, error) {
	return &controlv1.ShowCaseResponse{
		View: a.status.View, Verified: true, Verdict: "the proof holds", Story: []string{"proof 157b041928bf"},
		Case:   &controlv1.Case{Id: "157b041928bf", Accused: "spiffe://east.dev.example/node/n2", Standing: "quarantined"},
		Events: []*controlv1.CaseEvent{{At: timestamppb.New(at), What: "verified it"}, {At: timestamppb.New(at.Add(3 * time.Millisecond)), What: "cut 1 link"}},
	}, a.err
}

func serve(t *testing.T, a answering) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "control.sock")
	s, err := control.Listen(path, "", func(ctx context.Context, _ control.Call) (context.Context, error) { return ctx, nil }, a, a)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Serve() }()
	t.Cleanup(func() {
		if err := errors.Join(s.Close(), <-ended); err != nil {
			t.Error(err)
		}
	})
	return path
}

// run is one command line: its exit code and what it prints.
func run(args ...string) (code int, out, errOut string) {
	var o, e bytes.Buffer
	code = execute(args, &o, &e)
	return code, o.String(), e.String()
}

func TestOnePageOfACase(t *testing.T) {
	code, out, _ := run("quarantine", "show", "157b", "--socket", serve(t, answering{status: well("n1")}))
	_, page, _ := strings.Cut(out, "\n\n")
	want := `case 157b041928bf: spiffe://east.dev.example/node/n2 is quarantined
  proof 157b041928bf
verified again just now: the proof holds

AT                           NODE  WHAT
2026-11-21T10:00:00.000000Z  n1    verified it
2026-11-21T10:00:00.003000Z  n1    cut 1 link
`
	if code != explain.OK || page != want {
		t.Errorf("%d\n%s\nwant\n%s", code, page, want)
	}
}

func TestStatusOfOneNode(t *testing.T) {
	socket := serve(t, answering{status: well("n1")})
	code, out, errOut := run("status", "--socket", socket)
	if code != explain.OK || !strings.HasPrefix(out, "view of spiffe://east.dev.example/node/n1 as of 2026-11-21T10:00:00Z; ") || errOut != "" {
		t.Errorf("%d\n%s%s", code, out, errOut)
	}
	code, out, _ = run("status", "--socket", socket, "-o", "json")
	var doc struct {
		AsOf   string `json:"as_of"`
		ViewOf string `json:"view_of"`
		Nodes  []struct{ Self struct{ Standing string } }
	}
	if err := json.Unmarshal([]byte(out), &doc); err != nil || code != explain.OK || doc.ViewOf != "spiffe://east.dev.example/node/n1" || doc.Nodes[0].Self.Standing != "ok" {
		t.Errorf("%d, %v\n%s", code, err, out)
	}
	held := well("n1")
	held.Self.Standing = "held"
	if code, _, _ := run("status", "--socket", serve(t, answering{status: held})); code != explain.Degraded {
		t.Errorf("a node that is held: exit %d", code)
	}
}

func TestQuarantineList(t *testing.T) {
	_, out, _ := run("quarantine", "list", "--socket", serve(t, answering{status: well("n1")}))
	want := headline(well("n1").View) + `
SEEN_BY  CASE          ACCUSED  STANDING     CLASS         SINCE                 PROOF      SESSIONS  APPEAL
n1       157b041928bf  n2       quarantined  equivocation  2026-11-21T10:00:00Z  994 bytes  cut       -
`
	if out != want {
		t.Errorf("got:\n%s\nwant:\n%s", out, want)
	}
}

// TestErrorsOfANode: what a node answers has a code, an exit code and a way out; a
// node that answers is not called unreachable.
func TestErrorsOfANode(t *testing.T) {
	tests := []struct {
		err  error
		code string
		exit int
	}{
		{connect.NewError(connect.CodePermissionDenied, errors.New("not yours")), "BW1007", explain.Denied},
		{connect.NewError(connect.CodeInvalidArgument, errors.New("no key")), "BW1008", explain.Usage},
		{connect.NewError(connect.CodeNotFound, errors.New("nothing")), "BW1009", explain.Failed},
		{connect.NewError(connect.CodeFailedPrecondition, errors.New("too long")), "BW1010", explain.Failed},
		{connect.NewError(connect.CodeUnavailable, errors.New("not recorded, not done")), "", explain.Failed},
		{connect.NewError(connect.CodeInternal, errors.New("broken")), "", explain.Failed},
	}
	for _, tt := range tests {
		code, out, errOut := run("put", "k", "v", "--socket", serve(t, answering{err: tt.err}))
		var asked *connect.Error
		errors.As(tt.err, &asked)
		if code != tt.exit || out != "" || !strings.Contains(errOut, tt.code) || !strings.Contains(errOut, asked.Message()) ||
			(tt.code != "") != strings.Contains(errOut, "what to do: ") {
			t.Errorf("%v: exit %d\n%s%s", tt.err, code, out, errOut)
		}
	}
}

func TestNobodyAnswers(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "none.sock")
	for _, verb := range [][]string{
		{"status"}, {"get"}, {"put", "k", "v"}, {"delete", "k"}, {"why"}, {"quarantine", "list"}, {"quarantine", "show", "0123"}, {"quarantine", "release", "0123", "--reason", "x"},
	} {
		code, out, errOut := run(append(verb, "--socket", socket)...)
		if code != explain.Unreachable || out != "" || !strings.HasPrefix(errOut, "bailiwick: BW1001: the node: does not answer: "+socket+": no such file or directory\n") {
			t.Errorf("%v: exit %d\n%s%s", verb, code, out, errOut)
		}
	}
}

func TestAnswersKeepTheirOrder(t *testing.T) {
	targets := []target{{name: "a"}, {name: "b"}, {name: "c"}}
	got, errs := answers(targets, func(_ context.Context, t target) (*string, error) {
		if t.name == "b" {
			return nil, io.ErrUnexpectedEOF
		}
		return &t.name, nil
	})
	if *got[0] != "a" || got[1] != nil || *got[2] != "c" || errs[0] != nil || !errors.Is(errs[1], io.ErrUnexpectedEOF) || errs[2] != nil {
		t.Errorf("%v %v", got, errs)
	}
	if allFailed(errs) != nil || allFailed(errs[1:2]) == nil {
		t.Error("one answer is an answer; none is a failure")
	}
}
