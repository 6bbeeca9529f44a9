package main

import (
	"time"

	"github.com/bailiwick-mesh/bailiwick/policy"
)

const opaServerName = "OPA's own server (opa run --server) on a unix socket: the same rules, one request a decision; client and server"

var policyBenches = []bench{
	{
		area: "policy", name: "decide-uncached", unit: "µs of processor time/decision", reference: opaServerName, goal: 1 / 1.5, aim: 80,
		note:    "200 rules at three levels, 10,000 nodes known, the input built each time; ours combines levels, names the rule and keeps the input for replay; limit is plain Go with a map of the grants",
		prepare: func(_ string, s size) (sides, error) { return decideUncached(s) },
	},
	{
		area: "policy", name: "decide-cached", unit: "µs of processor time/decision", reference: opaServerName, goal: 1.0 / 500, aim: 0.2,
		note:    "the same, asked before; an allocation in ours would be an error; limit is plain Go with a map of the grants",
		prepare: func(_ string, s size) (sides, error) { return decideCached(s) },
	},
	{
		area: "policy", name: "decide-uncached-sdk", unit: "µs of processor time/decision", reference: "OPA's SDK (v1/sdk) in a Go program: the same rules, inputs as ready maps",
		note:    "ours builds the input; limit is plain Go with a map of the grants",
		prepare: func(_ string, s size) (sides, error) { return decideBesideSDK(s) },
	},
	{
		area: "policy", name: "decide-uncached-allocations", unit: "allocations/decision", reference: "OPA rego.PreparedEvalQuery: the same rules in one compiler, inputs as ready maps", aim: 520,
		note:    "ours builds the input, combines levels and keeps the input for replay",
		prepare: func(_ string, s size) (sides, error) { return decideAllocations(s) },
	},
	{
		area: "policy", name: "decide-p99-while-generations-swap", unit: "ms", reference: "OPA rego.PreparedEvalQuery over one store, which is written to as often", aim: 0.25,
		note:    "uncached; every 200 ms three levels are compiled from their sources and take over; the reference changes only data",
		prepare: func(_ string, s size) (sides, error) { return decideWhileSwapping(s) },
	},
	{
		area: "policy", name: "activate-1000-rules", unit: "ms", reference: "OPA rego.New(...).PrepareForEval with the same rules in one compiler",
		note:    "ours also checks the contract, the sandbox, the fields of each kind and the steps of the largest input",
		prepare: func(_ string, s size) (sides, error) { return activationTime(s) },
	},
	{
		area: "policy", name: "activate-1000-rules-peak", unit: "MB", reference: "OPA rego.New(...).PrepareForEval with the same rules in one compiler",
		note:    "memory at the worst moment above that before, sampled every millisecond; includes what the collector has not yet taken",
		prepare: func(_ string, s size) (sides, error) { return activationPeak(s) },
	},
	{
		area: "policy", name: "memory-1000-rules", unit: "MB", reference: "OPA rego.New(...).PrepareForEval with the same rules in one compiler",
		note:    "what stays once it is in force",
		prepare: func(_ string, s size) (sides, error) { return activationKept(s) },
	},
	replayBench,
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
