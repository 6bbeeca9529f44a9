package output

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/control/controlv1"
)

func sample(t *testing.T) Document {
	t.Helper()
	at := time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC)
	b, err := Message(&controlv1.StatusResponse{
		View: &controlv1.View{AsOf: timestamppb.New(at), Debt: &controlv1.Debt{Records: 7, Regions: map[string]*controlv1.RegionDebt{"west": {Summaries: 2}}}},
		Self: &controlv1.NodeStatus{SpiffeId: "spiffe://east.dev.example/node/n1", Roles: []string{"issuer"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return Document{AsOf: at, ViewOf: "spiffe://east.dev.example/node/n1", Nodes: []json.RawMessage{b}}
}

func TestWriteJSON(t *testing.T) {
	var out bytes.Buffer
	if err := Write(&out, JSON, sample(t), nil); err != nil {
		t.Fatal(err)
	}
	var doc struct {
		AsOf  time.Time `json:"as_of"`
		Nodes []struct {
			View struct {
				AsOf time.Time `json:"as_of"`
				Debt struct {
					Records uint64
					Regions map[string]struct{ Summaries uint64 }
				}
				Lease any
			}
			Self struct {
				SpiffeID string `json:"spiffe_id"`
				Roles    []string
			}
			Peers []any
		}
	}
	if err := json.Unmarshal(out.Bytes(), &doc); err != nil {
		t.Fatal(err)
	}
	n := doc.Nodes[0]
	if n.View.Debt.Records != 7 || n.View.Debt.Regions["west"].Summaries != 2 || !n.View.AsOf.Equal(doc.AsOf) ||
		n.Self.Roles[0] != "issuer" || n.View.Lease != nil || n.Peers == nil {
		t.Errorf("%s", out.String())
	}
}

func TestWriteYAML(t *testing.T) {
	var out bytes.Buffer
	if err := Write(&out, YAML, sample(t), nil); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"as_of:", "view_of: spiffe://east.dev.example/node/n1", "records: 7", "spiffe_id:"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
}

func TestFormatIsAFlag(t *testing.T) {
	var f Format
	if f.Set("xml") == nil || f.Set("yaml") != nil || f.String() != "yaml" {
		t.Errorf("format is %q", f)
	}
}

func TestSpan(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0ms", 12 * time.Second: "12s", 59*time.Minute + 43*time.Second: "59m43s", 90 * time.Minute: "1h30m", 72 * time.Hour: "3d", -time.Minute: "-1m0s",
	} {
		if got := Span(d); got != want {
			t.Errorf("Span(%s) = %s, want %s", d, got, want)
		}
	}
}
