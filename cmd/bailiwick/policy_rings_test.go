package main

import (
	"slices"
	"testing"

	"github.com/bailiwick-mesh/bailiwick/policy/rollout"
)

func TestRingText(t *testing.T) {
	nodes := []rollout.Node{{ID: "a", Path: "/node/east-n1"}, {ID: "b", Path: "/node/east-n2", Zone: "depot"}, {ID: "c", Path: "/node/east-n3"}}
	for name, c := range map[string]struct {
		rings []rollout.Ring
		text  string
		empty []string
	}{
		"a path":        {[]rollout.Ring{{Name: "canary", Nodes: []string{"/node/east-n1"}}}, "canary 1 nodes, all 2 nodes", nil},
		"a wrong path":  {[]rollout.Ring{{Name: "canary", Nodes: []string{"/nodes/east-n2"}}}, "canary 0 nodes, all 3 nodes", []string{"canary"}},
		"a class":       {[]rollout.Ring{{Name: "gate", Classes: []string{"gateway"}}, {Name: "depot", Zones: []string{"depot"}}}, "gate 0 or more nodes, depot 1 nodes, all 2 nodes", nil},
		"all in a ring": {[]rollout.Ring{{Name: "every"}}, "every 3 nodes, all 0 nodes", nil},
		"none is left":  {[]rollout.Ring{{Name: "every"}, {Name: "late", Zones: []string{"depot"}}}, "every 3 nodes, late 0 nodes, all 0 nodes", []string{"late"}},
	} {
		text, empty := ringText(&rollout.Plan{Rings: c.rings}, 2, nodes)
		if text != c.text || !slices.Equal(empty, c.empty) {
			t.Errorf("%s: %q %q, want %q %q", name, text, empty, c.text, c.empty)
		}
	}
}
