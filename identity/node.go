package identity

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// ErrNotNode means a SPIFFE ID does not name a node.
var ErrNotNode = errors.New("not a node ID: want spiffe://<trust domain>/node/<name> or spiffe://<trust domain>/zone/<zone>/node/<name>")

// NodeID is the name of a node: a SPIFFE ID and its parts. The zero value
// names no node.
type NodeID struct {
	ID   spiffeid.ID
	Zone string // empty: the node is in no zone
	Name string
}

// ParseNode splits a node's SPIFFE ID, or returns ErrNotNode.
func ParseNode(id spiffeid.ID) (NodeID, error) {
	switch p := strings.Split(id.Path(), "/"); {
	case len(p) == 3 && p[1] == "node":
		return NodeID{ID: id, Name: p[2]}, nil
	case len(p) == 5 && p[1] == "zone" && p[3] == "node":
		return NodeID{ID: id, Zone: p[2], Name: p[4]}, nil
	}
	return NodeID{}, fmt.Errorf("%w: %q", ErrNotNode, id)
}

// FailureDomain is what fails together with the node: its zone, or the node
// itself where there are no zones.
func (n NodeID) FailureDomain() string {
	if n.Zone != "" {
		return "zone/" + n.Zone
	}
	return "node/" + n.Name
}
