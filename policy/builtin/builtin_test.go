package builtin

import (
	"strings"
	"testing"
	"time"

	"github.com/bailiwick-mesh/bailiwick/policy"
)

// Everything that ships is checked, formatted and tested.
// All data that ships is read by the rules that ship with it, those of dev fleets too.
func TestShippedDataIsRead(t *testing.T) {
	for _, l := range append(Dev("east"), Global(), Regional("east")) {
		if err := policy.Review(l, nil); err != nil {
			t.Errorf("%s: %v", l.Name, err)
		}
	}
}

func TestShippedPolicy(t *testing.T) {
	for _, l := range []policy.Level{Global(), Regional("east")} {
		t.Run(l.Name, func(t *testing.T) {
			if err := policy.Check(l); err != nil {
				t.Fatal(err)
			}
			if err := policy.Formatted(l); err != nil {
				t.Error(err)
			}
			rep, err := policy.Test(t.Context(), l, policy.TestOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if len(rep.Results) < 5 {
				t.Errorf("only %d tests ran", len(rep.Results))
			}
			for _, r := range rep.Results {
				if !r.Pass {
					t.Errorf("%s:%d: %s failed: %s %s %v\n%s", r.File, r.Line, r.Name, r.Error, r.Failed, r.Difference, r.Output)
				}
			}
		})
	}
}

func dev(t *testing.T, region string) *policy.Engine {
	t.Helper()
	e := policy.New(policy.Config{Require: []string{policy.Regional}})
	if err := e.Activate(Dev(region)...); err != nil {
		t.Fatal(err)
	}
	return e
}

func call(region, workload, action string) policy.Input {
	self := "east"
	if action == policy.Dial {
		self = region
	}
	peer := func(region, kind, name string) *policy.Peer {
		return &policy.Peer{SPIFFEID: "spiffe://" + region + ".dev.example/" + kind + "/" + name, TrustDomain: region + ".dev.example",
			Path: []string{kind, name}, Region: region, Standing: "ok", Attestation: &policy.Attestation{Kind: "tpm", OK: true}}
	}
	return policy.Input{V: 1, Kind: policy.Connect, Time: policy.Time{Unix: time.Now().Unix(), Trusted: true},
		Self: peer(self, "node", self+"-n1"), Source: peer(region, "workload", workload), Destination: peer("east", "workload", "web"),
		Service: &policy.Service{Name: "web", Region: "east", Protocol: "tcp"}, Action: &policy.Action{Name: action}}
}

// The dev fleet: the shops get through at both ends, the intruder at none, and the denial names a
// line.
func TestDevFleet(t *testing.T) {
	for _, region := range []string{"east", "west"} {
		for _, action := range []string{policy.Dial, policy.Accept} {
			at := "east"
			if action == policy.Dial {
				at = region
			}
			e := dev(t, at)
			if d := e.Decide(t.Context(), call(region, "shop", action)); !d.Allow || d.Rule != "caller-granted" || d.Level != policy.Regional {
				t.Errorf("%s shop %s: %s", region, action, d.Explain())
			}
			d := e.Decide(t.Context(), call(region, "intruder", action))
			if d.Allow || d.Rule != "caller-not-granted" || d.File != "regional/connect.rego" || d.Line == 0 || d.Title == "" {
				t.Errorf("%s intruder %s: %s", region, action, d.Explain())
			}
			in := call(region, "shop", action)
			in.Source.Standing = "quarantined"
			if d := e.Decide(t.Context(), in); d.Allow || d.Rule != "source-standing" {
				t.Errorf("quarantined shop: %s", d.Explain())
			}
			in = call(region, "shop", action)
			in.Source.Attestation = nil
			if d := e.Decide(t.Context(), in); d.Allow || d.Rule != "source-unattested" {
				t.Errorf("unattested shop: %s", d.Explain())
			}
		}
	}
	// A region's policy does not open another region's service.
	if d := dev(t, "west").Decide(t.Context(), call("east", "shop", policy.Accept)); d.Allow || d.Rule != policy.RuleDelegation {
		t.Errorf("west opened east's service: %s", d.Explain())
	}
}

func TestDevNodes(t *testing.T) {
	e := dev(t, "east")
	in := call("east", "shop", policy.Accept)
	in.Kind, in.Service, in.Action, in.Source = policy.StateAdmit, nil, nil, in.Self
	in.Destination = nil
	d := e.Decide(t.Context(), in)
	if !d.Allow || len(d.Grants) != 2 || d.Grants[0].Prefix != "/node/east-n1" || d.Grants[1].Scope != "region" {
		t.Errorf("own state: %s", d.Explain())
	}
	in = policy.Input{V: 1, Kind: policy.AttestNode, Time: in.Time, Self: in.Self, Attest: &policy.Attest{Method: "bailiwick_tpm",
		EK:   policy.EK{Maker: "id:424C574B", SHA256: "aa", ChainOK: true},
		Boot: &policy.Boot{SecureBootOff: true, CommandLines: []string{"/vmlinuz root=/dev/vda ro"}, Strings: []string{"/vmlinuz root=/dev/vda ro"}}}}
	if d := e.Decide(t.Context(), in); !d.Allow || d.Rule != "attested" {
		t.Errorf("attested dev node: %s", d.Explain())
	}
	in.Attest.Boot.Unexplained = []int{23}
	if d := e.Decide(t.Context(), in); d.Allow || d.Rule != "pcr-unexplained" || d.File != "global/attest.rego" {
		t.Errorf("tampered dev node: %s", d.Explain())
	}
	in.Attest.Boot.Unexplained, in.Attest.EK.Maker = nil, "id:494E5443"
	if d := e.Decide(t.Context(), in); d.Allow || d.Rule != "secure-boot" {
		t.Errorf("no secure boot and no exception: %s", d.Explain())
	}
	for method, rule := range map[string]string{"join_token": "unattested-allowed", "x509pop": "unattested-allowed", "tpm_devid": "devid-allowed"} {
		in.Attest = &policy.Attest{Method: method, EK: policy.EK{ChainOK: method == "tpm_devid"}}
		if d := e.Decide(t.Context(), in); !d.Allow || d.Rule != rule {
			t.Errorf("dev node by %s: %s", method, d.Explain())
		}
	}
	in = call("east", "shop", "link")
	in.Service, in.Destination, in.Source = nil, nil, in.Self
	in.Source.Node = "east-n1"
	if d := e.Decide(t.Context(), in); !d.Allow || d.Rule != "node-link" {
		t.Errorf("node link: %s", d.Explain())
	}
}

func TestNothingIsOpenAsShipped(t *testing.T) {
	e := policy.New(policy.Config{})
	if err := e.Activate(Global(), Regional("east")); err != nil {
		t.Fatal(err)
	}
	if d := e.Decide(t.Context(), call("east", "shop", policy.Accept)); d.Allow {
		t.Error(d.Explain())
	}
	in := call("east", "shop", policy.Accept)
	in.Kind, in.Service, in.Action, in.Source, in.Destination = policy.AttestNode, nil, nil, nil, nil
	for method, want := range map[string][2]string{
		"join_token": {"unattested", "attest.unattested_trust_domains"}, "x509pop": {"unattested", "attest.unattested_trust_domains"},
		"tpm_devid": {"devid", "attest.devid_trust_domains"},
	} {
		in.Attest = &policy.Attest{Method: method, EK: policy.EK{ChainOK: method == "tpm_devid"}}
		if d := e.Decide(t.Context(), in); d.Allow || d.Rule != want[0] || !strings.Contains(d.Reason, want[1]) || d.Target != method {
			t.Errorf("a machine by %s, for %q: %s", method, d.Target, d.Explain())
		}
	}
	if _, err := Files("local"); err == nil {
		t.Error("there is no shipped local policy")
	}
}
