package app

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/witnessing"
	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
	"github.com/bailiwick-mesh/bailiwick/policy/authority"
)

// The values of the kinds that this node writes about itself. All are
// deterministic CBOR; a value that does not parse never enters the state.

// nodeRecord is the value of /<node>/node/self: where a node is reached and
// what it is for. It is what the roster is made of.
type nodeRecord struct {
	Address string   `cbor:"1,keyasint"` // ip:port of its link
	Region  string   `cbor:"2,keyasint"`
	Roles   []string `cbor:"3,keyasint,omitempty"` // issuer, authority, gateway
	Version string   `cbor:"4,keyasint,omitempty"`
	Policy  string   `cbor:"5,keyasint,omitempty"` // effective policy revision
	Entries string   `cbor:"6,keyasint,omitempty"` // of an issuer: another text when its entries have changed
	Trust   string   `cbor:"7,keyasint,omitempty"` // of an issuer: another text when it has other trust records
}

// serviceRecord is the value of /<node>/service/<name>: a service that a local
// workload offers.
type serviceRecord struct {
	Workload string `cbor:"1,keyasint"` // SPIFFE ID that answers
	Healthy  bool   `cbor:"2,keyasint"`
}

const (
	nodeName    = "self"
	maxVersion  = 64
	maxNews     = 32
	roleIssuer  = "issuer"
	roleAuth    = "authority"
	roleGateway = "gateway"
)

var roles = []string{roleIssuer, roleAuth, roleGateway}

// kinds is the registry of every key this version knows.
func kinds() feed.Kinds {
	return feed.DefaultKinds().
		With(feed.KindNode, func(name string, value []byte) error {
			_, err := parseNodeRecord(name, value)
			return err
		}).
		With(feed.KindService, func(_ string, value []byte) error {
			_, _, err := parseServiceRecord(value)
			return err
		}).
		With(feed.KindAttestation, attestationSchema).
		With(feed.KindAccusation, accusationSchema).
		With(feed.KindGeneration, func(name string, value []byte) error {
			_, err := parseGeneration(name, value)
			return err
		}).
		With(feed.KindTrail, witnessing.Schema)
}

func parseNodeRecord(name string, b []byte) (r nodeRecord, err error) {
	if name != nodeName {
		return r, fmt.Errorf("a node record is named %q, not %q", nodeName, name)
	}
	if err := statement.Unmarshal(b, &r); err != nil {
		return r, err
	}
	if _, err := netip.ParseAddrPort(r.Address); err != nil {
		return r, fmt.Errorf("address: %w", err)
	}
	if len(r.Region) > 63 || len(r.Version) > maxVersion || len(r.Policy) > 256 || len(r.Entries) > maxNews || len(r.Trust) > maxNews {
		return r, fmt.Errorf("region, version, policy, entries or trust is too long")
	}
	for _, role := range r.Roles {
		if !slices.Contains(roles, role) {
			return r, fmt.Errorf("role %q is none of %v", role, roles)
		}
	}
	return r, nil
}

func parseServiceRecord(b []byte) (r serviceRecord, workload spiffeid.ID, err error) {
	if err := statement.Unmarshal(b, &r); err != nil {
		return r, workload, err
	}
	workload, err = spiffeid.FromString(r.Workload)
	return r, workload, err
}

// objectName is the last segment of the key that carries an authority object.
func objectName(o authority.Signed) string {
	digest := statement.Digest([]byte(o.Level.String() + "/" + o.Name)) // names may be longer than a segment
	return fmt.Sprintf("%s.%x", o.Kind, digest[:8])
}
