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
	Policy      Policy      `yaml:"policy"`
	Issuer      *Issuer     `yaml:"issuer"`
	Authority   *Authority  `yaml:"authority"`
	Services    []Service   `yaml:"services"`
	Listeners   []Listener  `yaml:"listeners"`
	WorkloadAPI WorkloadAPI `yaml:"workload_api"`
	Control     Control     `yaml:"control"`
	Metrics     Metrics     `yaml:"metrics"`
	Log         Log         `yaml:"log"`

	// Dev opens what only tests and demonstrations need (partitions on demand).
	// Refused unless the trust domain ends in ".dev.example".
	Dev bool `yaml:"dev"`
}

// TPM says how the node proves what machine it is.
type TPM struct {
	// Mode is auto (use the TPM if there is one), required, or off. Default
	// auto. Without a TPM a node joins by token and is shown as unattested.
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
	// with. The one of its own trust domain is required.
	Records []Path `yaml:"records"`
}

// Enrol says where the node gets its identity.
type Enrol struct {
	// Issuers are host:port of the region's issuers, tried in order. Required.
	Issuers []string `yaml:"issuers"`

	// TokenFile holds a join token, for nodes without a TPM. It is read once.
	TokenFile Path `yaml:"token_file"`
}

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
	// Global and Region are signed policy records. Both required: a missing
	// level denies.
	Global Path `yaml:"global"`
	Region Path `yaml:"region"`
}

// Issuer makes this node one that signs SVIDs.
type Issuer struct {
	// Listen is the TCP address of SPIRE's server API. Required.
	Listen netip.AddrPort `yaml:"listen"`

	// Keys is the folder of the signing root and the record root. Required.
	Keys Path `yaml:"keys"`

	// Lifetime is how long an issued SVID is valid. Default one hour. Shorter is
	// safer: it bounds how long a stolen key works.
	Lifetime time.Duration `yaml:"lifetime"`

	// EKRoots are PEM files of the TPM makers whose endorsement certificates are
	// accepted. None is built in: choosing makers is the operator's decision.
	EKRoots []Path `yaml:"ek_roots"`

	// EKAllow and EKDeny are SHA-256 of EK public keys, in hex: allow one without
	// a certificate, or refuse one with.
	EKAllow []Hash `yaml:"ek_allow"`
	EKDeny  []Hash `yaml:"ek_deny"`

	// Entries are YAML files of registration entries (see Entry).
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

	// Services says which workloads may answer for a service name.
	Services []ServiceName `yaml:"services"`
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

// Control is the local API behind the bailiwick command.
type Control struct {
	// Socket is its unix socket, for its owner only. Default <state>/run/control.sock.
	Socket Path `yaml:"socket"`
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
type Entry struct {
	// ID is the SPIFFE ID the entry gives.
	ID spiffeid.ID `yaml:"id"`

	// EK makes it a node entry: SHA-256 of the TPM's endorsement public key, hex.
	EK Hash `yaml:"ek"`

	// Token makes it a node entry for a machine without a TPM: the SHA-256 of
	// its join token, hex.
	Token Hash `yaml:"token"`

	// Node makes it a workload entry: the node the workload runs on.
	Node spiffeid.ID `yaml:"node"`

	// Selectors must all hold for the calling process: unix:uid:1000,
	// unix:path:/usr/bin/shop, unix:sha256:... (as in SPIRE).
	Selectors []string `yaml:"selectors"`

	// Class is the limits class of a node: node, gateway, probation or
	// unattested. Default node.
	Class string `yaml:"class"`

	// Lifetime overrides the issuer's, downwards.
	Lifetime time.Duration `yaml:"lifetime"`
}
