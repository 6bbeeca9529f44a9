package config

import (
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/identity"
)

// Issuer makes this node one that signs SVIDs.
type Issuer struct {
	// Listen is the TCP address of SPIRE's server API. Required.
	Listen netip.AddrPort `yaml:"listen"`

	// AdminSocket is the unix socket, for its owner only, at which the stock
	// spire-server command operates the issuer (-socketPath): agents, bans, join
	// tokens, entries, rotation of the signing authorities. Default
	// <state>/run/issuer.sock.
	AdminSocket Path `yaml:"admin_socket"`

	// Keys is the folder of the signing root and the record root, of the node's own
	// trust domain. Required. One issuer at a time holds its file "lock".
	Keys Path `yaml:"keys"`

	// Root says where the key of the SVID root is. Default disk: in a file. tpm: it is
	// made in this machine's TPM and never leaves it, also those that rotation prepares;
	// issuer.keys then holds files that are of no use without that TPM. The TPM signs an
	// intermediate of 24 hours, whose key is in memory, and that signs SVIDs of at most
	// 12. JWT keys and the record root are files all the same. A root is lost with its
	// TPM: keep a second one prepared on another issuer of the region.
	Root RootMode `yaml:"root"`

	// Lifetime is how long an issued SVID is valid: one minute to a week, with dev
	// from ten seconds. Default one hour. Shorter is safer: it bounds how long a
	// stolen key works.
	Lifetime time.Duration `yaml:"lifetime"`

	// EKRoots are PEM files of the TPM makers whose endorsement certificates are
	// accepted, for bailiwick_tpm and tpm_devid. None is built in: choosing makers is
	// the operator's decision.
	EKRoots []Path `yaml:"ek_roots"`

	// EKIntermediates are PEM files of certificates between those roots and the TPMs',
	// for TPMs that do not carry them. They are trusted for nothing by themselves.
	EKIntermediates []Path `yaml:"ek_intermediates"`

	// EKAllow and EKDeny are SHA-256 of EK public keys, in hex: allow one without
	// a certificate, or refuse one with.
	EKAllow []Hash `yaml:"ek_allow"`
	EKDeny  []Hash `yaml:"ek_deny"`

	// X509PoPRoots are PEM files of the operator's authorities whose machine
	// certificates are evidence (SPIRE's x509pop). Default: no such evidence is
	// taken.
	X509PoPRoots []Path `yaml:"x509pop_roots"`

	// DevIDRoots are PEM files of the authorities that certify DevIDs (SPIRE's
	// tpm_devid). Such a machine also needs an endorsement certificate of
	// ek_roots. Default: no such evidence is taken.
	DevIDRoots []Path `yaml:"tpm_devid_roots"`

	// DevIDCA makes the issuer certify DevIDs for its TPM machines, which stock SPIRE
	// servers then know by tpm_devid. Its key is devid-ca.pem in keys, made when it
	// is not there; devid-ca.crt beside it is for their devid_ca_path.
	DevIDCA bool `yaml:"devid_ca"`

	// Upstream, if set, is the SPIRE server of the same trust domain that certifies
	// the issuer's signing authority.
	Upstream *Upstream `yaml:"upstream"`

	// Entries are YAML files of registration entries (see Entry). They are read
	// again at SIGHUP.
	Entries []Path `yaml:"entries"`
}

// Authority makes this node the region's authority.
type Authority struct {
	// Keys is the folder of the authority's signing key. Required.
	Keys Path `yaml:"keys"`

	// Lease is how long nodes may go on without hearing from the authority.
	// Default 24 hours.
	Lease time.Duration `yaml:"lease"`

	// Degraded is what a node does after that: renew-only, deny-new or deny-all.
	// Default deny-new.
	Degraded DegradedMode `yaml:"degraded"`

	// Issuers are the other nodes of the region that sign SVIDs. They ask this one for
	// epochs over the mesh, and tell each other through it their JWT keys and bans.
	// Each has roots of its own in issuer.keys, which the region's trust record names.
	// Default none.
	Issuers []spiffeid.ID `yaml:"issuers"`

	// Services says which workloads may answer for a service name.
	Services []ServiceName `yaml:"services"`
}

// Upstream is the SPIRE server below which an issuer is nested. That server must
// have a downstream entry for the issuer's agent ID. The issuer's signing authority
// is then certified by it, a day at most, and kept in issuer.keys: while the server
// is away the issuer goes on with it. The anchors in the region's trust record are
// the server's roots.
type Upstream struct {
	// Address is host:port of its server API. Required.
	Address string `yaml:"address"`

	// TrustBundle is a PEM file with its X.509 roots, to begin with. Required. From
	// the first contact on the server's own bundle is followed.
	TrustBundle Path `yaml:"trust_bundle"`

	// X509PoP is the certificate with which the issuer proves who it is (SPIRE's
	// x509pop). Either it or TokenFile.
	X509PoP *X509PoP `yaml:"x509pop"`

	// TokenFile holds a join token of the server. It is used once, and the agent SVID it
	// bought is kept and renewed. If that expires, put a new token here: the file is
	// read whenever one is needed.
	TokenFile Path `yaml:"token_file"`
}

const (
	leastLifetime     = time.Minute
	leastDevLifetime  = 10 * time.Second
	mostLifetime      = 7 * 24 * time.Hour
	mostLifetimeInTPM = 12 * time.Hour
	mostJWTLifetime   = time.Hour
)

func (c *Config) checkIssuer(d *decoder) {
	i := c.Issuer
	if !i.Listen.IsValid() {
		d.required("issuer.listen", "address:port, for TCP")
	}
	if i.Keys == "" {
		d.required("issuer.keys", "the folder of the signing keys")
	}
	i.AdminSocket = orDefault(i.AdminSocket, Path(filepath.Join(string(c.State), "run", "issuer.sock")))
	d.socket("issuer.admin_socket", i.AdminSocket)
	i.Lifetime = orDefault(i.Lifetime, time.Hour)
	least := leastLifetime
	if c.Dev {
		least = leastDevLifetime
	}
	i.Root = orDefault(i.Root, RootOnDisk)
	most, why := mostLifetime, ""
	if i.Root == RootInTPM {
		most, why = mostLifetimeInTPM, ", since issuer.root is tpm"
		if c.TPM.Mode == "off" {
			d.miss("issuer.root", string(i.Root), "disk, since tpm.mode is off")
		}
		if i.Upstream != nil {
			d.miss("issuer.root", string(i.Root), "disk, since issuer.upstream certifies the signing authority")
		}
	}
	if i.Lifetime < least || i.Lifetime > most {
		d.miss("issuer.lifetime", i.Lifetime.String(), fmt.Sprintf("%s to %s%s", least, most, why))
	}
	if len(i.EKIntermediates) > 0 && len(i.EKRoots) == 0 {
		d.miss("issuer.ek_intermediates", "", "issuer.ek_roots as well: an intermediate is trusted for nothing by itself")
	}
	if len(i.DevIDRoots) > 0 && len(i.EKRoots) == 0 {
		d.miss("issuer.tpm_devid_roots", "", "issuer.ek_roots as well: a DevID counts only in a TPM of a known maker")
	}
	if i.Upstream != nil {
		i.Upstream.check(d, "issuer.upstream")
	}
}

func (u Upstream) check(d *decoder, field string) {
	if u.Address == "" {
		d.required(field+".address", "host:port of the SPIRE server")
	} else if _, port, err := net.SplitHostPort(u.Address); err != nil || port == "" {
		d.miss(field+".address", u.Address, "host:port")
	}
	if u.TrustBundle == "" {
		d.required(field+".trust_bundle", "a PEM file with the SPIRE server's roots")
	}
	if (u.X509PoP != nil) == (u.TokenFile != "") {
		d.miss(field, "", "exactly one of token_file and x509pop")
	}
	if u.X509PoP != nil {
		u.X509PoP.check(d, field+".x509pop")
	}
}

func (p X509PoP) check(d *decoder, field string) {
	if p.Cert == "" {
		d.required(field+".cert", "the PEM file of the machine's certificate")
	}
	if p.Key == "" {
		d.required(field+".key", "the PEM file of the certificate's key")
	}
}

func (e Entry) check(d *decoder, field string, td spiffeid.TrustDomain) {
	_, err := identity.ParseNode(e.ID)
	isNode := err == nil
	if e.ID.IsZero() {
		d.required(field+".id", "the SPIFFE ID this entry gives")
	} else if e.ID.TrustDomain() != td {
		d.miss(field+".id", e.ID.String(), "an ID of trust domain "+td.Name())
	}
	parents := 0
	for _, set := range []bool{!e.EK.IsZero(), !e.Token.IsZero(), !e.Node.IsZero(), !e.Parent.IsZero()} {
		if set {
			parents++
		}
	}
	if parents != 1 {
		d.miss(field, "", "exactly one of ek, token, node and parent")
	}
	if !e.Parent.IsZero() {
		e.checkParent(d, field+".parent", td, isNode)
	}
	switch {
	case isNode && !e.Node.IsZero():
		d.miss(field+".node", e.Node.String(), "ek, token or parent instead: a node is a machine, not below another node")
	case isNode && len(e.Selectors) > 0:
		d.miss(field+".selectors", "", "none: the ID is a node's, and its machine is known by its evidence")
	case !isNode && len(e.Selectors) == 0 && !e.ID.IsZero():
		d.required(field+".selectors", "at least one selector, like unix:uid:1000")
	}
	for i, s := range e.Selectors {
		if kind, value, ok := strings.Cut(s, ":"); !ok || kind == "" || value == "" {
			d.miss(fmt.Sprintf("%s.selectors[%d]", field, i), s, "type:value, like unix:uid:1000")
		}
	}
	if _, err := oneOf([]byte(orDefault(e.Class, "node")), "node", "gateway", "probation", "unattested"); err != nil {
		d.miss(field+".class", e.Class, err.Error())
	} else if !isNode && e.Class != "" {
		d.miss(field+".class", e.Class, "none: only a node has one")
	}
	if e.JWTLifetime > mostJWTLifetime {
		d.miss(field+".jwt_lifetime", e.JWTLifetime.String(), "at most "+mostJWTLifetime.String())
	}
	for i, other := range e.FederatesWith {
		if other == td {
			d.miss(fmt.Sprintf("%s.federates_with[%d]", field, i), other.Name(), "another trust domain: workloads get the roots of their own in any case")
		}
	}
}

// fingerprints are the sizes of the names that agents have by their evidence, in bytes.
var fingerprints = map[string]int{"x509pop": 20, "tpm_devid": 20, "join_token": 32, "bailiwick_tpm": 32}

func (e Entry) checkParent(d *decoder, field string, td spiffeid.TrustDomain, isNode bool) {
	rest, isAgent := strings.CutPrefix(e.Parent.Path(), "/spire/agent/")
	kind, name, _ := strings.Cut(rest, "/")
	b, err := hex.DecodeString(name)
	switch size, known := fingerprints[kind]; {
	case e.Parent.TrustDomain() != td || e.Parent == e.ID || e.Parent.Path() == "":
		d.miss(field, e.Parent.String(), "another ID of trust domain "+td.Name())
	case isAgent && name == "":
		d.miss(field, e.Parent.String(), "/spire/agent/<type>/<name>")
	case isAgent && known && (err != nil || len(b) != size || name != strings.ToLower(name)):
		d.miss(field, e.Parent.String(), fmt.Sprintf("/spire/agent/%s/ and %d hex digits, a to f in lower case", kind, 2*size))
	case isNode && !isAgent:
		d.miss(field, e.Parent.String(), "the ID of an agent, /spire/agent/<type>/<name>: a node is a machine")
	}
}
