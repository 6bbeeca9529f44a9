package app

import (
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/config"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/control"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/control/controlv1"
	"github.com/bailiwick-mesh/bailiwick/gossip/client/statev1"
	"github.com/bailiwick-mesh/bailiwick/policy"
)

// A rule about a key cannot be walked around by spelling the key in another way.
func TestKeysHaveOneSpelling(t *testing.T) {
	h := handler{&App{cfg: config.Config{Node: nodeN1}}}
	own := nodeN1.Path() + "/x-a/b"
	for _, tt := range []struct{ name, key, want string }{
		{"Get", own, own},
		{"Get", "x-a/b", own},
		{"Get", nodeN1.String() + "/x-a/b", own},
		{"Put", "x-a/b", own},
		{"Change", "x-a/b", own},
		{"List", nodeN1.String() + "/x-a", nodeN1.Path() + "/x-a"},
		{"Watch", nodeN1.TrustDomain().IDString() + "/", "/"},
		{"List", "spiffe://other.example/node/n1", "spiffe://other.example/node/n1"},
		{"List", nodeN1.TrustDomain().IDString() + ".org/node", nodeN1.TrustDomain().IDString() + ".org/node"},
		{"Read", "x-a/b", "x-a/b"},
		{"List", "", ""},
	} {
		if got := h.keyOf(control.Call{API: "state", Name: tt.name, Key: tt.key}); got != tt.want {
			t.Errorf("%s %s: %s, want %s", tt.name, tt.key, got, tt.want)
		}
	}
}

// Every call of an operator is recorded whole; of a program's own state the calls are counted.
func TestCallsOfOperatorsAreRecordedEach(t *testing.T) {
	for file, each := range map[protoreflect.FileDescriptor]bool{
		controlv1.File_cmd_internal_control_controlv1_control_proto: true,
		statev1.File_gossip_client_statev1_state_proto:              false,
	} {
		for i := range file.Services().Len() {
			methods := file.Services().Get(i).Methods()
			for j := range methods.Len() {
				name := string(methods.Get(j).Name())
				if got := eachDecision(policy.Decision{Kind: policy.Admin, Target: name + " key"}); got != each {
					t.Errorf("%s: recorded each: %v, want %v", name, got, each)
				}
			}
		}
	}
	if eachDecision(policy.Decision{Kind: policy.Connect, Target: "Status"}) {
		t.Error("allows of other kinds are a sample")
	}
}
