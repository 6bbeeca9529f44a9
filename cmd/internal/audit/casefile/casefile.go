package casefile

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/trail"
	"github.com/bailiwick-mesh/bailiwick/attest/trail/witness"
	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
	"github.com/bailiwick-mesh/bailiwick/identity/trust"
	"github.com/bailiwick-mesh/bailiwick/policy/bundle"
	"github.com/bailiwick-mesh/bailiwick/policy/decision"
)

// Format is the first word of a manifest.
const Format = "bailiwick-case/1"

var (
	// ErrDigest means that an entry is not the one in SHA256SUMS: it was changed
	// after the file was made.
	ErrDigest = errors.New("an entry of the case file was changed")

	// ErrEntry means that an entry is missing, is not what its name says, or
	// belongs to no leaf in the file.
	ErrEntry = errors.New("an entry of the case file does not belong to it")
)

const (
	sumsName     = "SHA256SUMS"
	manifestName = "manifest.json"
	reportName   = "report.html"
)

// Question is what a case file answers. One of Case, Subject and the span is set.
type Question struct {
	Case    string    `json:"case,omitempty"`    // first digits of a finding's digest or a decision's ID
	Subject string    `json:"subject,omitempty"` // a SPIFFE ID, service, digest: whatever leaves name
	From    time.Time `json:"from,omitzero"`     // with To: every leaf of this span, by the node's clock
	To      time.Time `json:"to,omitzero"`       // not included
}

// Span reports whether every leaf of a span was asked for.
func (q Question) Span() bool { return q.Case == "" && q.Subject == "" }

// holds reports whether a time is in the span.
func (q Question) holds(at time.Time) bool { return !at.Before(q.From) && at.Before(q.To) }

func (q Question) String() string {
	switch {
	case q.Case != "":
		return "case " + q.Case
	case q.Subject != "":
		return "everything about " + q.Subject
	default:
		return fmt.Sprintf("every leaf from %s to %s", q.From.UTC().Format(time.RFC3339), q.To.UTC().Format(time.RFC3339))
	}
}

// Manifest says what was asked. It proves nothing.
type Manifest struct {
	Format   string    `json:"format"`
	Question Question  `json:"question"`
	MadeAt   time.Time `json:"made_at"`  // by the clock of the machine it was made on
	MadeBy   string    `json:"made_by"`  // version
	Renderer string    `json:"renderer"` // SHA-256 of what the report is made with
	Trails   []Origin  `json:"trails"`   // in the order of the folders
}

// Origin is a trail and the key it says it is signed with.
type Origin struct {
	Origin   string `json:"origin"`
	Verifier string `json:"verifier"` // C2SP signed-note
}

// Leaf is a leaf and its proof, as they are stored.
type Leaf struct {
	Index uint64
	Raw   []byte
	Proof []byte
}

// Case is the content of a case file.
type Case struct {
	Manifest  Manifest
	Leaves    [][]Leaf // of each trail, by index
	Seen      [][]Seen // of each trail, by size; none: nothing earlier
	Rosters   [][]byte // of witnesses, as heads name them
	Witnesses [][]byte // records of the keys of those who cosigned
	Decisions [][]byte // events, JSON without a newline
	Policies  [][]byte // signed policy files
	Trust     [][]byte // signed trust records
	Evidence  [][]byte // proofs

	report []byte // as it was read
}

// Write packs a case. Renderer, Format and the report are set here. Errors are of
// parts that are not what they should be, and wrap ErrEntry.
func Write(c Case) ([]byte, error) {
	c.Manifest.Format, c.Manifest.Renderer = Format, renderer
	files := map[string][]byte{}
	for n, leaves := range c.Leaves {
		for _, l := range leaves {
			name := fmt.Sprintf("trails/%d/%d", n, l.Index)
			files[name+".leaf"], files[name+".tlog-proof"] = l.Raw, l.Proof
		}
	}
	for n, seen := range c.Seen {
		for _, s := range seen {
			files[fmt.Sprintf("trails/%d/%d.seen", n, s.Size)] = s.Raw
		}
	}
	for _, part := range []struct {
		list [][]byte
		name func([]byte) (string, error)
	}{{c.Decisions, decisionName}, {c.Policies, policyName}, {c.Trust, trustName}, {c.Evidence, evidenceName}, {c.Rosters, rosterName}, {c.Witnesses, keysName}} {
		for _, b := range part.list {
			name, err := part.name(b)
			if err != nil {
				return nil, err
			}
			files[name] = b
		}
	}
	m, err := json.MarshalIndent(c.Manifest, "", "  ")
	if err != nil {
		return nil, err
	}
	files[manifestName] = append(m, '\n')
	if files[reportName], err = render(c); err != nil {
		return nil, err
	}
	var entries []entry
	for name, b := range files {
		entries = append(entries, entry{name, b})
	}
	sortEntries(entries)
	entries = append(entries, entry{sumsName, sums(entries)})
	sortEntries(entries)
	out := pack(entries)
	if _, err := Read(out); err != nil { // what no reader would take is not written
		return nil, err
	}
	return out, nil
}

func sortEntries(e []entry) {
	slices.SortFunc(e, func(a, b entry) int { return strings.Compare(a.name, b.name) })
}

func sums(entries []entry) []byte {
	var out bytes.Buffer
	for _, e := range entries {
		fmt.Fprintf(&out, "%x  %s\n", sha256.Sum256(e.data), e.name)
	}
	return out.Bytes()
}

// Names of what is named by its content.
func decisionName(b []byte) (string, error) {
	e, err := decision.ParseEvent(b)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrEntry, err)
	}
	if id, err := hex.DecodeString(e.DecisionID); err != nil || len(id) != 16 {
		return "", fmt.Errorf("%w: decision ID %q is not 16 bytes in hex", ErrEntry, e.DecisionID)
	}
	return "decisions/" + e.DecisionID + ".json", nil
}

func policyName(b []byte) (string, error) {
	if _, _, err := bundle.Split(b); err != nil {
		return "", fmt.Errorf("%w: %w", ErrEntry, err)
	}
	return fmt.Sprintf("policies/%x.policy", sha256.Sum256(b)), nil
}

func trustName(b []byte) (string, error) {
	r, _, err := trust.Read(b)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrEntry, err)
	}
	return fmt.Sprintf("trust/%s-%d.trust", r.TrustDomain.Name(), r.Version), nil
}

func evidenceName(b []byte) (string, error) {
	if len(b) > max(feed.MaxProof, witness.MaxConflict) {
		return "", fmt.Errorf("%w: a proof of %d bytes", ErrEntry, len(b))
	}
	return fmt.Sprintf("evidence/%x.proof", sha256.Sum256(b)), nil
}

// Read takes a case file apart and checks its form: container, digests, names. It
// believes nothing yet; that is for Verify. Errors wrap ErrContainer, ErrDigest or
// ErrEntry.
func Read(b []byte) (Case, error) {
	entries, err := unpack(b)
	if err != nil {
		return Case{}, err
	}
	files := map[string][]byte{}
	var rest []entry
	for _, e := range entries {
		files[e.name] = e.data
		if e.name != sumsName {
			rest = append(rest, e)
		}
	}
	//bailiwick:check TestFlippedBit/with_new_checksums
	if want := sums(rest); !bytes.Equal(want, files[sumsName]) {
		return Case{}, fmt.Errorf("%w: %s", ErrDigest, firstOther(want, files[sumsName]))
	}
	var c Case
	if c.Manifest, err = readManifest(files[manifestName]); err != nil {
		return Case{}, err
	}
	if c.report = files[reportName]; c.report == nil {
		return Case{}, fmt.Errorf("%w: %s is missing", ErrEntry, reportName)
	}
	c.Leaves, c.Seen = make([][]Leaf, len(c.Manifest.Trails)), make([][]Seen, len(c.Manifest.Trails))
	for _, e := range rest {
		if err := c.take(e, files); err != nil {
			return Case{}, err
		}
	}
	for n := range c.Leaves {
		slices.SortFunc(c.Leaves[n], func(a, b Leaf) int { return cmp.Compare(a.Index, b.Index) })
		if len(c.Leaves[n]) == 0 || c.Leaves[n][0].Index != 0 {
			return Case{}, fmt.Errorf("%w: the genesis of %s is missing", ErrEntry, c.Manifest.Trails[n].Origin)
		}
	}
	return c, nil
}

// firstOther is the first entry on which two lists of digests differ.
func firstOther(want, got []byte) string {
	listed := map[string]bool{}
	for line := range strings.Lines(string(got)) {
		listed[line] = true
	}
	for line := range strings.Lines(string(want)) {
		if !listed[line] {
			_, name, _ := strings.Cut(strings.TrimSpace(line), "  ")
			return name + " is not the one in " + sumsName
		}
	}
	return sumsName + " lists other entries than there are"
}

func readManifest(b []byte) (m Manifest, err error) {
	if err := json.Unmarshal(b, &m); err != nil {
		return m, fmt.Errorf("%w: %s: %w", ErrEntry, manifestName, err)
	}
	if m.Format != Format {
		return m, fmt.Errorf("%w: format %q, this version reads %s", ErrEntry, m.Format, Format)
	}
	if again, err := json.MarshalIndent(m, "", "  "); err != nil || !bytes.Equal(append(again, '\n'), b) {
		return m, fmt.Errorf("%w: %s is spelled another way than it is written", ErrEntry, manifestName)
	}
	return m, nil
}

// take puts an entry where its name says, if its content says the same.
func (c *Case) take(e entry, files map[string][]byte) error {
	folder, _, _ := strings.Cut(e.name, "/")
	var name string
	var err error
	switch folder {
	case manifestName, reportName:
		return nil
	case "trails":
		return c.takeLeaf(e, files)
	case "decisions":
		name, err = decisionName(e.data)
		c.Decisions = append(c.Decisions, e.data)
	case "policies":
		name, err = policyName(e.data)
		c.Policies = append(c.Policies, e.data)
	case "trust":
		name, err = trustName(e.data)
		c.Trust = append(c.Trust, e.data)
	case "rosters":
		name, err = rosterName(e.data)
		c.Rosters = append(c.Rosters, e.data)
	case "witnesses":
		name, err = keysName(e.data)
		c.Witnesses = append(c.Witnesses, e.data)
	case "evidence":
		name, err = evidenceName(e.data)
		c.Evidence = append(c.Evidence, e.data)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", e.name, err)
	}
	if name != e.name {
		return fmt.Errorf("%w: %s", ErrEntry, e.name)
	}
	return nil
}

func (c *Case) takeLeaf(e entry, files map[string][]byte) error {
	part := strings.Split(e.name, "/")
	if len(part) != 3 {
		return fmt.Errorf("%w: %s", ErrEntry, e.name)
	}
	n, err := strconv.ParseUint(part[1], 10, 16)
	number, isLeaf := strings.CutSuffix(part[2], ".leaf")
	if !isLeaf {
		number, _, _ = strings.Cut(part[2], ".")
	}
	index, ierr := strconv.ParseUint(number, 10, 63)
	if err != nil || ierr != nil || n >= uint64(len(c.Leaves)) {
		return fmt.Errorf("%w: %s", ErrEntry, e.name)
	}
	name := fmt.Sprintf("trails/%d/%d", n, index)
	if e.name == name+".seen" && len(e.data) <= trail.MaxEarlier {
		c.Seen[n] = append(c.Seen[n], Seen{index, e.data})
		return nil
	}
	raw, ok := files[name+".leaf"]
	proof, both := files[name+".tlog-proof"]
	if !ok || !both || e.name != name+".leaf" && e.name != name+".tlog-proof" {
		return fmt.Errorf("%w: %s: a leaf without its proof, or a proof without its leaf", ErrEntry, e.name)
	}
	if len(raw) > trail.MaxLeaf || len(proof) > trail.MaxProof {
		return fmt.Errorf("%w: %s is too long", ErrEntry, e.name)
	}
	if isLeaf {
		c.Leaves[n] = append(c.Leaves[n], Leaf{index, raw, proof})
	}
	return nil
}
