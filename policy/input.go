package policy

import (
	"errors"
	"fmt"

	"github.com/bailiwick-mesh/bailiwick/attest/bounded"
	"github.com/bailiwick-mesh/bailiwick/policy/jsonfile"
)

// InputVersion is the value of Input.V this package understands.
const InputVersion = 1

// Input is everything one decision may depend on. All of it was verified by the caller: nothing is
// copied from what a peer says of itself. Which parts a kind has is closed (Schema): an input with
// another part is refused. A field that does not apply stays at its zero value and is then absent
// in Rego, except numbers and booleans, which are always present unless their type says otherwise.
// What a tag enum lists is all that a text can be: ParseInput and the schemas refuse another.
type Input struct {
	V           int         `json:"v"` // InputVersion
	Kind        Kind        `json:"kind"`
	Time        Time        `json:"time"`
	Self        *Peer       `json:"self,omitempty"`        // this node
	Source      *Peer       `json:"source,omitempty"`      // who asks
	Destination *Peer       `json:"destination,omitempty"` // who is asked, where known
	Service     *Service    `json:"service,omitempty"`
	Action      *Action     `json:"action,omitempty"`
	Request     *Request    `json:"request,omitempty"`
	Resource    *Resource   `json:"resource,omitempty"`
	Attest      *Attest     `json:"attest,omitempty"`
	Roster      *Roster     `json:"roster,omitempty"`
	Call        *Call       `json:"call,omitempty"`
	Policy      PolicyState `json:"policy"` // filled in by Engine.Decide where empty
}

// Time is when the question is asked.
type Time struct {
	Unix    int64 `json:"unix"`    // seconds; must be positive
	Trusted bool  `json:"trusted"` // the node's clock is within its bounds
	// Until is when the first of what the facts rest on ends, such as an SVID. In seconds; zero
	// means that nothing does. A question asked later is denied, with RuleEnded.
	Until int64 `json:"until,omitempty"`
}

// Peer is what this node verified about an identity.
type Peer struct {
	SPIFFEID    string            `json:"spiffe_id,omitempty"`
	TrustDomain string            `json:"trust_domain,omitempty"`
	Path        []string          `json:"path,omitempty"` // the SPIFFE path, split
	Node        string            `json:"node,omitempty"` // name of the node it is, or runs on
	Service     string            `json:"service,omitempty"`
	Region      string            `json:"region,omitempty"`                                // short label
	Zone        string            `json:"zone,omitempty"`                                  // from enrolment
	Roles       []string          `json:"roles,omitempty" enum:"issuer,authority,gateway"` // from enrolment
	Labels      map[string]string `json:"labels,omitempty"`
	Attestation *Attestation      `json:"attestation,omitempty"`                                                // of the node it is, or runs on
	Standing    string            `json:"standing,omitempty" enum:"ok,released,watch,held,quarantined,revoked"` // as policy/quarantine prints it
}

// Attestation is the last attestation of a node.
type Attestation struct {
	Kind       string `json:"kind" enum:"tpm,devid,unattested"` // how the node proved itself
	OK         bool   `json:"ok"`
	AgeSeconds int64  `json:"age_seconds"`
}

// Service is what a connection is for. Region and Protocol come from the signed service name.
type Service struct {
	Name     string `json:"name"`
	Region   string `json:"region,omitempty"`
	Protocol string `json:"protocol,omitempty"`
	Port     int    `json:"port,omitempty"`
}

// Action is what is asked of the destination.
type Action struct {
	Name string `json:"name,omitempty"` // dial, accept, link, or a control call such as enrol (then without service)
}

// Names of Action in a connect.
const (
	Dial   = "dial"   // a local workload asks for Service; answered by the caller's own node and region
	Accept = "accept" // Source is at the door of Service; answered by the service's node and region
	Link   = "link"   // a node asks to be a neighbour; no Service
)

// Request is one HTTP request, as the sidecar reads it. The path is decoded once and has no empty
// and no dot segments: a request whose path can be read in two ways never gets here.
type Request struct {
	Method  string            `json:"method"`            // upper case
	Host    string            `json:"host,omitempty"`    // lower case, without port
	Path    []string          `json:"path,omitempty"`    // its segments, without the query
	Headers map[string]string `json:"headers,omitempty"` // those of the configured allow-list: lower-case name to value, several values joined by ", "
}

// Resource is what a replicate is about.
type Resource struct {
	Classes []string `json:"classes"` // data classes of the state, sorted; never empty
}

// Roster is how many nodes of its region this node knows, itself among them.
type Roster struct {
	Attested   int `json:"attested"`   // by a TPM
	Unattested int `json:"unattested"` // without one
}

// Call is what a local program asks of the node's API. The kernel says who its user is; Source says
// which workload it is, where a registration entry matches it.
type Call struct {
	API   string `json:"api" enum:"control,state,ext_authz,authzen"` // which of the node's
	Name  string `json:"name"`                                       // of the method, such as Release or Put
	Key   string `json:"key,omitempty"`                              // of the state it is about: a key, or of List and Watch a prefix, as a path; of Read, ReadAll and Follow a name, <kind>/<name>
	UID   int64  `json:"uid"`                                        // of the caller's process; -1 where the kernel does not say
	GID   int64  `json:"gid"`                                        // the same
	Owner bool   `json:"owner"`                                      // the caller is root, or the user that the node runs as
}

// Attest is what the verifier of a node's attestation found. Cryptographic checks are not here:
// they are Go code and no policy can switch them off.
type Attest struct {
	Method       string            `json:"method" enum:"bailiwick_tpm,tpm_devid,join_token,x509pop"` // the type of SPIRE node attestation
	Key          string            `json:"key,omitempty" enum:"resident,attested"`                   // of the node: resident (in the TPM) or attested (in memory); absent in quotes after enrolment
	EK           EK                `json:"ek"`
	PCRs         map[string]string `json:"pcrs,omitempty"` // SHA-256 bank: "8" -> hex digest
	Boot         *Boot             `json:"boot,omitempty"` // absent where no boot log replayed to the PCRs
	Untrusted    map[string]any    `json:"untrusted,omitempty"`
	ResetCount   uint32            `json:"reset_count"`
	RestartCount uint32            `json:"restart_count"`
	Starts       uint64            `json:"starts"` // NV counters
	Epoch        uint64            `json:"epoch"`
}

// Boot is what a replayed boot log proves, under the JSON names of eventlog.Facts. A fact that is
// absent or false is not proven; never read it as its opposite.
type Boot struct {
	SecureBoot    bool                `json:"secure_boot"`             // proven to be on
	SecureBootOff bool                `json:"secure_boot_off"`         // proven to be off
	CommandLines  []string            `json:"command_lines,omitempty"` // of the kernel, in order
	Strings       []string            `json:"strings,omitempty"`       // all texts the boot loader measured
	Digests       map[string][]string `json:"digests,omitempty"`       // PCR -> event digests, hex
	Explained     []int               `json:"explained,omitempty"`     // PCRs the log accounts for
	Unexplained   []int               `json:"unexplained,omitempty"`
}

// EK describes the endorsement key of a TPM.
type EK struct {
	Maker    string `json:"maker,omitempty"`
	Model    string `json:"model,omitempty"`
	Firmware string `json:"firmware,omitempty"`
	SHA256   string `json:"sha256,omitempty"` // hex, of the public key
	ChainOK  bool   `json:"chain_ok"`         // its certificate leads to an accepted maker
}

// PolicyState tells rules how old each level is.
type PolicyState struct {
	Levels map[string]LevelState `json:"levels,omitempty"` // by name: global, regional, local
}

// LevelState is one level of the generation in force.
type LevelState struct {
	Revision   string `json:"revision"`
	AgeSeconds int64  `json:"age_seconds"` // since it was signed; 0 where unknown
	Isolated   bool   `json:"isolated"`    // its authority is out of reach
}

// ErrInput means that an input is not one this package decides on: a field is unknown, missing, of
// the wrong type or too large. The decision is a denial. The caller must fix the input.
var ErrInput = errors.New("policy input is not valid")

// MaxInput is the largest input, in bytes of JSON.
const MaxInput = 64 << 10

// ParseInput reads an input that was recorded or written by hand. It refuses unknown fields, trailing
// bytes and whatever Decide would refuse. jsonfile.In gives its errors the line.
func ParseInput(b []byte) (Input, error) {
	if len(b) > MaxInput {
		return Input{}, fmt.Errorf("%w: %d bytes, at most %d", ErrInput, len(b), MaxInput)
	}
	var in Input
	if err := jsonfile.Decode(b, &in); err != nil {
		return Input{}, fmt.Errorf("%w: %w", ErrInput, err)
	}
	path, err := in.closed()
	if err == nil {
		path, err = in.misfit()
	}
	if err != nil {
		return Input{}, fmt.Errorf("%w: %w", ErrInput, jsonfile.At(b, path, err.Error()))
	}
	_, err = in.value()
	return in, err
}

// ended reports whether the facts hold no more.
func (in *Input) ended() bool { return in.Time.Until != 0 && in.Time.Unix > in.Time.Until }

// target names what is asked for, for people.
func (in *Input) target() string { return clip(in.targetName()) }

func (in *Input) source() string {
	if in.Source == nil {
		return ""
	}
	return clip(in.Source.SPIFFEID)
}

// clip makes a name fit for logs and leaves, also that of an input which was refused.
func clip(s string) string { return bounded.Text(s, 512) }

func (in *Input) targetName() string {
	switch {
	case in.Attest != nil && in.Attest.EK.SHA256 != "":
		return in.Attest.EK.SHA256
	case in.Attest != nil:
		return in.Attest.Method
	case in.Call != nil && in.Call.Key != "":
		return in.Call.Name + " " + in.Call.Key
	case in.Call != nil:
		return in.Call.Name
	case in.Kind == Replicate && in.Destination != nil:
		return in.Destination.SPIFFEID
	case in.Service != nil && in.Service.Region != "":
		return in.Service.Name + "." + in.Service.Region
	case in.Service != nil:
		return in.Service.Name
	case in.Action != nil:
		return in.Action.Name
	}
	return ""
}
