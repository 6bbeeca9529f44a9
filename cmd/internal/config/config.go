// Package config is the node's one YAML file: its fields are the manual.
//
// Reading is strict. Unknown and repeated keys, wrong types, values out of
// range and fields that do not go together are all reported at once, each with
// its line, the field, what was found and what would be right; nothing is used
// of a file with a mistake. Zero values are useful: a field that is not set has
// the default its comment names. Relative paths are relative to the file.
//
// Anchors, aliases and tags are refused: a reader of the file should see what
// the node sees.
package config

import (
	"net/netip"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Config is one node.
type Config struct {
	// Node is the SPIFFE ID this node expects to be given:
	// spiffe://<trust domain>/node/<name>, or with a zone,
	// spiffe://<trust domain>/zone/<zone>/node/<name>. Required. The issuer
	// decides; a node that is given another ID refuses to run.
	Node spiffeid.ID `yaml:"node"`

	// State is the folder for everything the node must remember. Required. One
	// node per folder; mode 0700.
	State Path `yaml:"state"`

	TPM         TPM         `yaml:"tpm"`
	Attest      Attest      `yaml:"attest"`
	Trust       Trust       `yaml:"trust"`
	Enrol       Enrol       `yaml:"enrol"`
	Mesh        Mesh        `yaml:"mesh"`
	Links       []Link      `yaml:"links"` // the first that is about a peer counts
	Policy      Policy      `yaml:"policy"`
	Issuer      *Issuer     `yaml:"issuer"`
	Authority   *Authority  `yaml:"authority"`
	Services    []Service   `yaml:"services"`
	Listeners   []Listener  `yaml:"listeners"`
	WorkloadAPI WorkloadAPI `yaml:"workload_api"`
	Control     Control     `yaml:"control"`
	Trail       Trail       `yaml:"trail"`
	Metrics     Metrics     `yaml:"metrics"`
	Log         Log         `yaml:"log"`

	// Dev opens what only tests and demonstrations need (partitions on demand).
	// Refused unless the trust domain ends in ".dev.example".
	Dev bool `yaml:"dev"`
}

// TPM says how the node proves what machine it is.
type TPM struct {
	// Mode is auto (use the TPM if there is one), required, or off. Default
	// auto. With auto, a TPM that was cleared or replaced gets new keys and the node
	// enrols again; with required it does not start. Without a TPM a node joins by token or x509pop and is shown as unattested. The
	// flag --tpm of bailiwick run goes before it.
	Mode TPMMode `yaml:"mode"`

	// Device is a character device, unix:/path or tcp:host:port. Default /dev/tpmrm0.
	Device string `yaml:"device"`

	// BootLog is the firmware's measured-boot log, at most 1 MiB. Default
	// /sys/kernel/security/tpm0/binary_bios_measurements.
	BootLog Path `yaml:"boot_log"`

	// NodeKey says where the key behind the node's SVIDs is. Default resident: it is
	// made in the TPM, never leaves it, and every TLS handshake waits for the TPM.
	// attested: it is in memory and in the identity cache, and bound to the TPM's
	// evidence; policy sees which as attest.key.
	NodeKey NodeKeyMode `yaml:"node_key"`

	// SealCache seals the key of the identity cache to the TPM, so that a disk taken
	// out of the machine is of no use. A cache that cannot be opened never keeps a
	// node from starting: it is set aside and the node enrols again. Turning it off
	// keeps a sealed key sealed.
	SealCache bool `yaml:"seal_cache"`
}

// Trust is what the node believes before it has met anyone.
type Trust struct {
	// GlobalKeys are PEM files with the P-256 public keys of the global
	// authority. Required.
	GlobalKeys []Path `yaml:"global_keys"`

	// Threshold is how many of them must have signed a trust record. Default 1.
	Threshold int `yaml:"threshold"`

	// Records are signed trust records, one for each region this node may deal
	// with; a file may hold several. The one of its own trust domain is required.
	// Newer ones come from the issuer, or with bailiwick trust import. The files are
	// read again at SIGHUP.
	Records []Path `yaml:"records"`
}

// Enrol says where the node gets its identity, and what it shows for it: its TPM
// (bailiwick_tpm), unless a field below says otherwise.
type Enrol struct {
	// Issuers are host:port of the region's issuers, tried in order. Required.
	Issuers []string `yaml:"issuers"`

	// DevID is a folder with the three files of a DevID in this machine's TPM, as
	// `bailiwick devid export` writes them: the node attests by SPIRE's tpm_devid
	// instead. The TPM must have an RSA endorsement key with a certificate, and
	// tpm.node_key must be resident.
	DevID Path `yaml:"devid"`

	// TokenFile holds a join token, for nodes without a TPM. It is read until the
	// node has its first identity, which it then renews; the token works once.
	TokenFile Path `yaml:"token_file"`

	// X509PoP attests by SPIRE's x509pop, for nodes without a TPM: by a certificate
	// of the operator's for this machine. Unlike a token it can be shown again, by a
	// node that was away until its SVIDs expired.
	X509PoP *X509PoP `yaml:"x509pop"`
}

// X509PoP is a certificate and its key, in PEM files.
type X509PoP struct {
	// Cert holds the machine's own certificate, then those up to the authority.
	// Required.
	Cert Path `yaml:"cert"`

	// Key is its ECDSA or RSA key; nobody but the node's user may read it. Required.
	Key Path `yaml:"key"`
}

// WithoutTPM reports whether a node without a TPM has something to attest by.
func (e Enrol) WithoutTPM() bool { return e.TokenFile != "" || e.X509PoP != nil }

// Mesh is the node's place on the network.
type Mesh struct {
	// Listen is the one UDP address of the node. Required.
	Listen netip.AddrPort `yaml:"listen"`

	// Advertise is the address peers should use. Default: Listen.
	Advertise netip.AddrPort `yaml:"advertise"`

	// Join are addresses of some nodes of the region, to begin with.
	Join []netip.AddrPort `yaml:"join"`

	// Gateways are addresses of gateways of other regions. A node that lists
	// any is itself a gateway: it exchanges summaries with them.
	Gateways []netip.AddrPort `yaml:"gateways"`
}

// Policy names the signed policies to enforce.
type Policy struct {
	// Global and Region are signed policy files that the node begins with. Both
	// required: a missing level denies. Newer versions come from other nodes
	// (bailiwick policy publish) and are kept; a file counts while it is the newest.
	// Files are read again at SIGHUP; what cannot be used leaves the policy in force.
	Global Path `yaml:"global"`
	Region Path `yaml:"region"`

	// Local is the signed policy of the node's zone, or of the node where it has no
	// zone. Optional: it can only deny, but for what the region delegated.
	Local Path `yaml:"local"`

	Decisions Decisions `yaml:"decisions"`

	// ExtAuthz answers Envoy's external authorization filters (ext_authz v3, gRPC), and
	// AuthZEN the Authorization API 1.0 (/access/v1/evaluation and /evaluations, JSON over
	// HTTP), from the policy in force. Default: none of them.
	ExtAuthz *ExtAuthz `yaml:"ext_authz"`
	AuthZEN  *AuthZEN  `yaml:"authzen"`
}

// ServiceName gives a name to workloads.
type ServiceName struct {
	// Name is the first label of <name>.<region>.mesh.
	Name string `yaml:"name"`
	// Workloads are the SPIFFE IDs a dialler accepts as this service. Required.
	Workloads []spiffeid.ID `yaml:"workloads"`
}

// Service is something a local workload offers to the mesh.
type Service struct {
	// Name is the service's first label.
	Name string `yaml:"name"`
	// Workload is the SPIFFE ID of the process that must own the target.
	Workload spiffeid.ID `yaml:"workload"`
	// Target is its local TCP address.
	Target netip.AddrPort `yaml:"target"`
}

// Listener is a local way into the mesh.
type Listener struct {
	// Listen is a loopback TCP address that local workloads connect to.
	Listen netip.AddrPort `yaml:"listen"`
	// Service is the full name <service>.<region>.mesh.
	Service string `yaml:"service"`
}

// WorkloadAPI is the SPIFFE Workload API.
type WorkloadAPI struct {
	// Socket is its unix socket. Default <state>/run/workload.sock.
	Socket Path `yaml:"socket"`
}

// Control is the local API behind the bailiwick command. Each call is put to policy
// (kind admin); as shipped that lets root and the node's own user make every call,
// and others those that data.admin.grants gives them.
type Control struct {
	// Socket is its unix socket. Default <state>/run/control.sock.
	Socket Path `yaml:"socket"`

	// Group is a group whose members may connect to the socket, beside root and the
	// node's user: a name or a number. Policy still decides what they may call. The
	// folders above the socket must be open to it. Default: none.
	Group string `yaml:"group"`
}

// Metrics is the Prometheus endpoint.
type Metrics struct {
	// Listen is a TCP address for /metrics. Default: none.
	Listen netip.AddrPort `yaml:"listen"`
}

// Log is where and how much the node logs. It always logs to standard error.
type Log struct {
	// Level is debug, info, warn or error. Default info.
	Level LogLevel `yaml:"level"`
	// Format is text or json. Default text.
	Format LogFormat `yaml:"format"`
}

// Entry is one registration entry: who may have which SPIFFE ID. Entries live
// in files of their own, as `entries:` lists.
//
// An entry whose ID is that of a node names a machine; any other is for workloads.
// It is given to whoever holds its parent, which is exactly one of EK, Token, Node
// and Parent.
type Entry struct {
	// ID is the SPIFFE ID the entry gives. Required.
	ID spiffeid.ID `yaml:"id"`

	// EK is a machine with a TPM: SHA-256 of the TPM's endorsement public key, hex.
	EK Hash `yaml:"ek"`

	// Token is a machine without one: the SHA-256 of its join token, hex. A token
	// is good once, and for a day after the issuer first read it.
	Token Hash `yaml:"token"`

	// Node is the node a workload runs on.
	Node spiffeid.ID `yaml:"node"`

	// Parent is any other holder, as in SPIRE: the ID of an agent
	// (/spire/agent/<type>/<name>; of x509pop and tpm_devid the name is the SHA-1 of
	// the certificate in hex), an ID that another entry gives, or /spire/server for
	// an alias: an ID of every agent that shows the selectors.
	Parent spiffeid.ID `yaml:"parent"`

	// Selectors must all hold for the calling process: unix:uid:1000,
	// unix:path:/usr/bin/shop, unix:sha256:... (as in SPIRE). Required unless the
	// ID is a node's, which has none.
	Selectors []string `yaml:"selectors"`

	// Class is the limits class of a node: node, gateway, probation or
	// unattested. Default node.
	Class string `yaml:"class"`

	// Lifetime overrides the issuer's, downwards.
	Lifetime time.Duration `yaml:"lifetime"`

	// JWTLifetime is how long its JWT-SVIDs are valid, at most an hour. Default five
	// minutes.
	JWTLifetime time.Duration `yaml:"jwt_lifetime"`

	// FederatesWith are the other regions whose roots its workloads get.
	FederatesWith []spiffeid.TrustDomain `yaml:"federates_with"`

	// DNSNames go into its X.509-SVIDs.
	DNSNames []string `yaml:"dns_names"`

	// Hint tells workloads with several identities which one this is.
	Hint string `yaml:"hint"`

	// Expires is when the entry ends, as 2027-01-31T12:00:00Z. Default: never.
	Expires time.Time `yaml:"expires"`
}
