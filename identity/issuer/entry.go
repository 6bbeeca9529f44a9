package issuer

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/identity"
	"github.com/bailiwick-mesh/bailiwick/identity/epoch"
)

// ErrEntry means a registration entry cannot be. The message names the entry
// and the field.
var ErrEntry = errors.New("registration entry refused")

// nodeSelector stands in node entries as SPIRE's API shows them: no workload
// attestor says it, so no workload can ever match a node's own name.
const nodeSelector = "bailiwick:node"

// What begins the IDs of entries that come from the configuration's files, and of
// those that were applied. Both are named by their content.
const (
	fileID  = "file-"
	applyID = "apply-"
)

// Entry gives SPIFFEID to whoever holds ParentID and, for a workload, shows all
// the selectors.
type Entry struct {
	// SPIFFEID is given. In the region, not below /spire/.
	SPIFFEID spiffeid.ID
	// ParentID is an agent ID (/spire/agent/...) or an ID another entry gives. It
	// is /spire/server for a node alias: an ID of all agents that show the selectors.
	ParentID spiffeid.ID
	// Selectors are type:value pairs as in SPIRE, such as unix:uid:1000.
	// Required for a workload and an alias, absent for a node.
	Selectors []string
	// Class is the limits class of a node, "node" if empty. Absent for a workload.
	Class string
	// X509TTL is the lifetime of its SVIDs if shorter than the issuer's.
	X509TTL time.Duration
	// JWTTTL is the lifetime of its JWT-SVIDs; zero: DefaultJWTLifetime. At most
	// an hour.
	JWTTTL time.Duration
	// FederatesWith are the other regions whose bundles its workloads get.
	FederatesWith []spiffeid.TrustDomain
	// Expires is when the entry ends; zero: never.
	Expires time.Time
	// DNSNames go into its SVIDs.
	DNSNames []string
	// Hint is passed on to workloads with several identities.
	Hint string
}

// AgentID returns the ID under which evidence of a type about a subject is
// known: /spire/agent/<type>/<name>.
func AgentID(td spiffeid.TrustDomain, kind, name string) (spiffeid.ID, error) {
	return spiffeid.FromSegments(td, "spire", "agent", kind, name)
}

func isAgent(id spiffeid.ID) bool { return strings.HasPrefix(id.Path(), "/spire/agent/") }

// isNode reports whether the entry gives a node its own name.
func (e Entry) isNode() bool {
	_, err := identity.ParseNode(e.SPIFFEID)
	return err == nil && isAgent(e.ParentID)
}

// id names an entry of a file by its content, so an entry that changes is another
// one and a revision number is not needed.
func (e Entry) id() string {
	var expires int64
	if !e.Expires.IsZero() {
		expires = e.Expires.Unix()
	}
	b, err := statement.Marshal([]any{e.SPIFFEID.String(), e.ParentID.String(), e.Selectors, e.Class, int64(e.X509TTL), e.DNSNames, e.Hint,
		int64(e.JWTTTL), tdNames(e.FederatesWith), expires})
	if err != nil {
		panic(err) // strings and integers: always encodes
	}
	sum := sha256.Sum256(b)
	return fileID + hex.EncodeToString(sum[:16])
}

func tdNames(tds []spiffeid.TrustDomain) []string {
	out := make([]string, 0, len(tds))
	for _, td := range tds {
		out = append(out, td.Name())
	}
	return out
}

func (e Entry) check(td spiffeid.TrustDomain) error {
	_, err := identity.ParseNode(e.SPIFFEID)
	switch {
	case e.SPIFFEID.TrustDomain() != td || e.SPIFFEID.Path() == "":
		return fmt.Errorf("id is not in %s", td)
	case strings.HasPrefix(e.SPIFFEID.Path(), "/spire/"):
		return errors.New("id: /spire/ is reserved")
	case len(e.SPIFFEID.String()) > maxID:
		return fmt.Errorf("id: has %d bytes, at most %d", len(e.SPIFFEID.String()), maxID)
	case e.ParentID.TrustDomain() != td || e.ParentID.Path() == "" || e.ParentID == e.SPIFFEID:
		return fmt.Errorf("parent: %q is no other ID in %s", e.ParentID, td)
	case err == nil && !isAgent(e.ParentID):
		return fmt.Errorf("parent: a node's must be an agent ID, not %s", e.ParentID)
	case err == nil && e.Class != "" && !slices.Contains(epoch.Classes, e.Class):
		return fmt.Errorf("class: %q, want one of %q", e.Class, epoch.Classes)
	case err == nil && len(e.Selectors) != 0:
		return errors.New("selectors: a node has none")
	case err != nil && e.Class != "":
		return errors.New("class: only a node has one")
	case err != nil && len(e.Selectors) == 0:
		return errors.New("selectors: a workload needs at least one, or it would be any process")
	case e.X509TTL < 0 || e.JWTTTL < 0:
		return errors.New("lifetime: is negative")
	case e.JWTTTL > maxJWTLifetime:
		return fmt.Errorf("JWT lifetime: %s, at most %s", e.JWTTTL, maxJWTLifetime)
	case slices.Contains(e.FederatesWith, td):
		return fmt.Errorf("federates with: %s is its own trust domain", td)
	}
	for _, s := range e.Selectors {
		if kind, value, ok := strings.Cut(s, ":"); !ok || kind == "" || value == "" {
			return fmt.Errorf("selectors: %q, want type:value such as unix:uid:1000", s)
		}
	}
	for _, name := range e.DNSNames {
		if !dnsName.MatchString(name) || len(name) > maxDNSName {
			return fmt.Errorf("DNS names: %.64q is none: letters, digits, hyphens and dots, at most %d bytes", name, maxDNSName)
		}
	}
	return nil
}

// maxID is how long a SPIFFE ID that somebody gives may be, in bytes (SPIFFE-ID §2.3).
const maxID = 2048

// maxDNSName bounds a DNS name, in bytes (RFC 1035 §2.3.4).
const maxDNSName = 253

// dnsName is a name that verifiers compare with a host's (RFC 6125 §6.4): labels, the
// first of which may be a star. As in SPIRE, underscores are letters.
var dnsName = regexp.MustCompile(`^(\*\.)?[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?)*$`)
