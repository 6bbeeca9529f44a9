package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// InputVersion is the value of Input.V this package understands.
const InputVersion = 1

// Kind says what is being decided.
type Kind string

// The kinds of decision.
const (
	// Connect: may Source open a connection to Service (or, with a Control call, to this node)?
	Connect Kind = "connect"
	// StateAdmit: may Source's Update enter this node's state? The answer carries a Grant.
	StateAdmit Kind = "state_admit"
	// AttestNode: are the verified claims in Attest good enough to issue an identity?
	AttestNode Kind = "attest"
)

// Kinds lists every kind.
var Kinds = []Kind{Connect, StateAdmit, AttestNode}

// Input is everything one decision may depend on. All of it was verified by the caller: nothing is
// copied from what a peer says of itself. A field that does not apply stays at its zero value and
// is then absent in Rego, except numbers and booleans, which are always present.
type Input struct {
	V           int         `json:"v"` // InputVersion
	Kind        Kind        `json:"kind"`
	Time        Time        `json:"time"`
	Self        *Peer       `json:"self,omitempty"`        // this node
	Source      *Peer       `json:"source,omitempty"`      // who asks
	Destination *Peer       `json:"destination,omitempty"` // who is asked, where known
	Service     *Service    `json:"service,omitempty"`
	Action      *Action     `json:"action,omitempty"`
	Resource    *Resource   `json:"resource,omitempty"`
	Update      *Update     `json:"update,omitempty"` // StateAdmit only
	Attest      *Attest     `json:"attest,omitempty"` // AttestNode only
	Policy      PolicyState `json:"policy"`           // filled in by Engine.Decide where empty
}

// Time is when the question is asked.
type Time struct {
	Unix    int64 `json:"unix"`    // seconds; must be positive
	Trusted bool  `json:"trusted"` // the node's clock is within its bounds
}

// Peer is what this node verified about an identity.
type Peer struct {
	SPIFFEID    string            `json:"spiffe_id,omitempty"`
	TrustDomain string            `json:"trust_domain,omitempty"`
	Path        []string          `json:"path,omitempty"` // the SPIFFE path, split
	Node        string            `json:"node,omitempty"` // name of the node it is, or runs on
	Service     string            `json:"service,omitempty"`
	Region      string            `json:"region,omitempty"` // short label
	Zone        string            `json:"zone,omitempty"`   // from enrolment
	Roles       []string          `json:"roles,omitempty"`  // from enrolment: issuer, authority, gateway
	Labels      map[string]string `json:"labels,omitempty"`
	Attestation *Attestation      `json:"attestation,omitempty"` // of the node it is, or runs on
	Standing    string            `json:"standing,omitempty"`    // as policy/quarantine prints it
}

// Attestation is the last attestation of a node.
type Attestation struct {
	Kind       string `json:"kind"` // tpm, devid, unattested
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
	Name   string   `json:"name,omitempty"` // Dial, Accept, Link, or one of ControlCalls (then without Service)
	Method string   `json:"method,omitempty"`
	Path   []string `json:"path,omitempty"`
}

// Names of Action in a connect.
const (
	Dial   = "dial"   // a local workload asks for Service; answered by the caller's own node and region
	Accept = "accept" // Source is at the door of Service; answered by the service's node and region
	Link   = "link"   // a node asks to be a neighbour; no Service
)

// Resource is what the action is about.
type Resource struct {
	Classes   []string `json:"classes,omitempty"` // data classes
	Partition string   `json:"partition,omitempty"`
}

// Update is one operation of a signed record, already verified as far as signatures go.
type Update struct {
	Key    string `json:"key"`
	Kind   string `json:"kind"`            // the segment after the owner's path: node, service, ...
	Op     string `json:"op"`              // put or del
	Owner  string `json:"owner"`           // SPIFFE ID the key belongs to
	Origin string `json:"origin"`          // SPIFFE ID that signed
	Scope  string `json:"scope,omitempty"` // zone, region (where empty) or global
	Size   int    `json:"size"`            // of the value, bytes
	Epoch  uint64 `json:"epoch"`
}

// Attest is what the verifier of a node's attestation found. Cryptographic checks are not here:
// they are Go code and no policy can switch them off.
type Attest struct {
	Method       string            `json:"method"`        // bailiwick_tpm, tpm_devid, join_token, x509pop
	Key          string            `json:"key,omitempty"` // of the node: resident (in the TPM) or attested (in memory); absent in quotes after enrolment
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
	Levels map[string]LevelState `json:"levels,omitempty"`
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

// ParseInput reads a recorded input. It refuses unknown fields, trailing bytes and whatever
// Decide would refuse.
func ParseInput(b []byte) (Input, error) {
	if len(b) > MaxInput {
		return Input{}, fmt.Errorf("%w: %d bytes, at most %d", ErrInput, len(b), MaxInput)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	var in Input
	if err := d.Decode(&in); err != nil {
		return Input{}, fmt.Errorf("%w: %v", ErrInput, err)
	}
	if _, err := d.Token(); err != io.EOF {
		return Input{}, fmt.Errorf("%w: bytes after the end", ErrInput)
	}
	if _, err := in.value(); err != nil {
		return Input{}, err
	}
	return in, nil
}

// check refuses an input that lacks what its kind needs.
func (in *Input) check() error {
	switch {
	case in.V != InputVersion:
		return fmt.Errorf("%w: v is %d, want %d", ErrInput, in.V, InputVersion)
	case in.Time.Unix <= 0:
		return fmt.Errorf("%w: time.unix is missing", ErrInput)
	case in.Kind == Connect && in.Service == nil && in.Action == nil:
		return fmt.Errorf("%w: a connect needs service or action", ErrInput)
	case in.Kind == Connect && in.Source == nil:
		return fmt.Errorf("%w: a connect needs source", ErrInput)
	case in.Kind == StateAdmit && (in.Update == nil || in.Source == nil):
		return fmt.Errorf("%w: a state_admit needs source and update", ErrInput)
	case in.Kind == AttestNode && in.Attest == nil:
		return fmt.Errorf("%w: an attest needs attest", ErrInput)
	}
	switch in.Kind {
	case Connect, StateAdmit, AttestNode:
		return nil
	}
	return fmt.Errorf("%w: kind %q is not one of %v", ErrInput, in.Kind, Kinds)
}

// target names what is asked for, for people.
func (in *Input) target() string { return clip(in.targetName()) }

func (in *Input) source() string {
	if in.Source == nil {
		return ""
	}
	return clip(in.Source.SPIFFEID)
}

// clip makes a name fit for logs and leaves, also that of an input which was refused.
func clip(s string) string {
	const most = 512
	if len(s) > most {
		s = s[:most]
	}
	return strings.ToValidUTF8(s, "?")
}

func (in *Input) targetName() string {
	switch {
	case in.Update != nil:
		return in.Update.Key
	case in.Attest != nil:
		return in.Attest.EK.SHA256
	case in.Service != nil && in.Service.Region != "":
		return in.Service.Name + "." + in.Service.Region
	case in.Service != nil:
		return in.Service.Name
	case in.Action != nil:
		return in.Action.Name
	}
	return ""
}
