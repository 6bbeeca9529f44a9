package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/storage/inmem"

	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/builtin"
)

var policyBenches = []bench{
	{
		area: "policy", name: "decide-connect-uncached", unit: "µs/decision",
		reference: "OPA rego.PreparedEvalQuery: the same modules in one compiler, the same rules asked for, input as a ready map",
		note:      "the shipped policy of the dev fleet; ours builds the input, combines levels, names the rule and keeps the input for replay; limit is a Go map lookup of the same grant",
		prepare:   func(_ string, s size) (sides, error) { return decideConnect(s.pick(2000, 3)) },
	},
}

// connectQuery asks OPA for what both levels say.
const connectQuery = `x = [data.bailiwick.global.connect.deny, data.bailiwick.global.connect.allow,
	data.bailiwick.regional.connect.deny, data.bailiwick.regional.connect.allow]`

func decideConnect(count int) (sides, error) {
	ctx := context.Background()
	engine := policy.New(policy.Config{Require: []string{policy.Regional}})
	levels := builtin.Dev("east")
	if err := engine.Activate(levels...); err != nil {
		return sides{}, err
	}
	query, err := merged(ctx, levels)
	if err != nil {
		return sides{}, err
	}
	in := map[string]any{
		"v": 1, "kind": "connect", "time": map[string]any{"unix": time.Now().Unix(), "trusted": true},
		"self": peerMap("node/east-n1"), "source": peerMap("workload/shop"), "destination": peerMap("workload/web"),
		"service": map[string]any{"name": "web", "region": "east", "protocol": "tcp"}, "action": map[string]any{"name": "accept"},
	}
	grants := map[string]bool{"web.east|spiffe://east.dev.example/workload/shop": true}
	each := func(decide func() (bool, error)) func() (float64, error) {
		return func() (float64, error) {
			return micros(count, func() error {
				for range count {
					if allow, err := decide(); err != nil || !allow {
						return errors.Join(errors.New("the call is denied"), err)
					}
				}
				return nil
			})
		}
	}
	return sides{
		ours: each(func() (bool, error) {
			d := engine.Decide(ctx, connectInput())
			return d.Allow, nil
		}),
		reference: each(func() (bool, error) {
			rs, err := query.Eval(ctx, rego.EvalInput(in))
			if err != nil || len(rs) != 1 {
				return false, fmt.Errorf("%d results: %w", len(rs), err)
			}
			sets, _ := rs[0].Bindings["x"].([]any)
			return len(sets) == 4 && empty(sets[0]) && empty(sets[2]) && !empty(sets[3]), nil
		}),
		limit: func() (float64, error) {
			service, caller := "web.east", "spiffe://east.dev.example/workload/shop"
			const more = 100 // a lookup is too short for the clock
			return micros(count*more, func() error {
				for range count * more {
					if !grants[service+"|"+caller] {
						return errors.New("the grant is gone")
					}
				}
				return nil
			})
		},
	}, nil
}

func empty(set any) bool {
	list, ok := set.([]any)
	return ok && len(list) == 0
}

// connectInput is built afresh for each decision, as the data path does.
func connectInput() policy.Input {
	peer := func(kind, name string) *policy.Peer {
		return &policy.Peer{
			SPIFFEID: "spiffe://east.dev.example/" + kind + "/" + name, TrustDomain: "east.dev.example", Path: []string{kind, name},
			Region: "east", Standing: "ok", Attestation: &policy.Attestation{Kind: "tpm", OK: true},
		}
	}
	return policy.Input{
		V: policy.InputVersion, Kind: policy.Connect, Time: policy.Time{Unix: time.Now().Unix(), Trusted: true},
		Self: peer("node", "east-n1"), Source: peer("workload", "shop"), Destination: peer("workload", "web"),
		Service: &policy.Service{Name: "web", Region: "east", Protocol: "tcp"}, Action: &policy.Action{Name: policy.Accept},
	}
}

func peerMap(path string) map[string]any {
	kind, name, _ := strings.Cut(path, "/")
	return map[string]any{
		"spiffe_id": "spiffe://east.dev.example/" + path, "trust_domain": "east.dev.example", "path": []any{kind, name},
		"region": "east", "standing": "ok", "attestation": map[string]any{"kind": "tpm", "ok": true, "age_seconds": 0},
	}
}

// merged puts all levels into one OPA, as one would without an engine of levels.
func merged(ctx context.Context, levels []policy.Level) (rego.PreparedEvalQuery, error) {
	data := map[string]any{}
	options := []func(*rego.Rego){rego.Query(connectQuery)}
	for _, l := range levels {
		maps.Copy(data, l.Data)
		for path, source := range l.Modules {
			if !strings.HasSuffix(path, "_test.rego") {
				options = append(options, rego.Module(l.Name+"/"+path, source))
			}
		}
	}
	options = append(options, rego.Store(inmem.NewFromObject(data)))
	return rego.New(options...).PrepareForEval(ctx)
}
