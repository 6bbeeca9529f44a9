package feed

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
)

// MaxProof is the largest proof, in bytes.
const MaxProof = MaxCert + 2*MaxHeader + 2<<10

// Classes of findings.
const (
	ClassEquivocation   = "equivocation"
	ClassForkUnattested = "fork-unattested" // freezes, convicts nobody
	ClassClockBack      = "clock-back"
	ClassForeignKey     = "foreign-key"
)

// ErrProof means bytes that prove nothing: malformed, or what they show breaks no
// rule. Whoever presents them as evidence is wrong.
var ErrProof = errors.New("proof does not hold")

const (
	formPair = 1
	formKey  = 2
)

// proof is the encoding of the package doc.
type proof struct {
	Form   uint8      `cbor:"1,keyasint"`
	Cert   []byte     `cbor:"2,keyasint"`
	First  []byte     `cbor:"3,keyasint"`
	Second []byte     `cbor:"4,keyasint,omitempty"`
	Leaf   []byte     `cbor:"5,keyasint,omitempty"`
	Index  uint16     `cbor:"6,keyasint,omitempty"`
	Path   [][32]byte `cbor:"7,keyasint,omitempty"`
	Body   []byte     `cbor:"8,keyasint,omitempty"`
}

// Finding is what a proof shows. It is the same on every machine.
type Finding struct {
	Accused  spiffeid.ID
	Class    string
	Digest   [32]byte
	Attested bool   // a TPM backs the epoch
	Epoch    uint64 // of the feed that is frozen
	LastGood uint64 // the last record that counts
}

// Convicts reports whether the finding alone is reason for quarantine.
func (f Finding) Convicts() bool {
	switch f.Class {
	case ClassEquivocation:
		return f.Attested
	case ClassClockBack, ClassForeignKey, ClassFalseAccusation:
		return true
	}
	return false
}

// parsedProof is a proof whose parts parse; nothing in it is verified.
type parsedProof struct {
	proof
	first, second Signed
	foreign       string // the first key of the leaf that is not the origin's
	op            int    // which of the record's ops writes it
	accusation    []byte // the evidence of which it says that it is false
	broken        string // the class without regard to the TPM
	lastGood      uint64
}

// parseProof reads a proof and decides what it would show. Errors wrap ErrProof.
func parseProof(b []byte) (parsedProof, error) {
	var p parsedProof
	if len(b) > MaxProof {
		return p, fmt.Errorf("%w: %d bytes, at most %d", ErrProof, len(b), MaxProof)
	}
	err := statement.Unmarshal(b, &p.proof)
	if err == nil && (len(p.Cert) == 0 || len(p.Cert) > MaxCert) {
		err = fmt.Errorf("certificate of %d bytes", len(p.Cert))
	}
	if err == nil {
		p.first, err = ParseSigned(p.First)
	}
	if err == nil && len(p.Body) > 0 && p.Form != formFalse {
		err = errors.New("a body where none belongs")
	}
	if err == nil {
		switch p.Form {
		case formPair:
			err = p.readPair()
		case formKey:
			err = p.readKey()
		case formFalse:
			err = p.readAccusation()
		default:
			err = fmt.Errorf("unknown form %d", p.Form)
		}
	}
	if err != nil {
		return p, fmt.Errorf("%w: %w", ErrProof, err)
	}
	return p, nil
}

func (p *parsedProof) readPair() (err error) {
	if len(p.Leaf) > 0 || p.Index != 0 || len(p.Path) > 0 {
		return errors.New("pair with a leaf")
	}
	if p.second, err = ParseSigned(p.Second); err != nil {
		return err
	}
	a, b := p.first, p.second
	switch {
	case a.Feed() != b.Feed():
		return fmt.Errorf("%w: headers of different feeds", errShowsNothing)
	case !ordered(a, b):
		return errors.New("headers not in their order")
	case contradict(a, b):
		p.broken, p.lastGood = ClassEquivocation, commonBefore(a, b)
	case a.Seq+1 == b.Seq && b.Prev == a.id && b.HLC <= a.HLC:
		p.broken, p.lastGood = ClassClockBack, a.Seq
	default:
		return fmt.Errorf("%w: the two headers break no rule", errShowsNothing)
	}
	return nil
}

func (p *parsedProof) readKey() error {
	if len(p.Second) > 0 {
		return errors.New("key with a second header")
	}
	var heads []head
	if err := statement.Unmarshal(p.Leaf, &heads); err != nil {
		return err
	}
	foreign := func(h head) bool {
		key, err := ParseKey(h.Key)
		return err == nil && !key.OwnedBy(p.first.origin)
	}
	at := slices.IndexFunc(heads, foreign)
	if len(heads) > headsPerLeaf || at < 0 {
		return errors.New("leaf without a foreign key")
	}
	p.foreign, p.op = heads[at].Key, (int(p.Index)-1)*headsPerLeaf+at
	root, ok := pathRoot(leafHash(p.Leaf), int(p.Index), leavesOf(int(p.first.Count)), p.Path)
	if !ok || root != p.first.Root {
		return errors.New("leaf is not under the header's ops root")
	}
	p.broken, p.lastGood = ClassForeignKey, p.first.Seq-1
	return nil
}

// class gives what the proof shows under an epoch with or without a TPM.
func (p parsedProof) class(attested bool) string {
	if p.broken == ClassEquivocation && !attested {
		return ClassForkUnattested
	}
	return p.broken
}

func (p parsedProof) digest(class string) [32]byte {
	h := sha256.New()
	h.Write([]byte("bailiwick finding 1\x00" + class + "\x00"))
	h.Write(p.first.id[:])
	switch p.Form {
	case formPair:
		h.Write(p.second.id[:])
	case formKey:
		leaf := leafHash(p.Leaf)
		h.Write(leaf[:])
	case formFalse:
		evidence := sha256.Sum256(p.accusation)
		h.Write(evidence[:])
	}
	return [32]byte(h.Sum(nil))
}

// namedBy reports whether name is the digest of a finding the proof may lead to.
func (p parsedProof) namedBy(name string) bool {
	return name == EvidenceName(p.digest(p.class(true))) || name == EvidenceName(p.digest(p.class(false)))
}

// VerifyProof checks a proof from its own bytes. Errors wrap ErrProof when the
// proof is false, or ErrUncheckable (whatever else keys reports) when its
// certificate cannot be judged here: then nobody is at fault.
func VerifyProof(b []byte, keys KeyFunc) (Finding, error) {
	p, err := parseProof(b)
	if err != nil {
		return Finding{}, err
	}
	key, err := keys(p.Cert)
	if err != nil {
		return Finding{}, fmt.Errorf("%w: %w", ErrUncheckable, err)
	}
	for _, s := range p.headers() {
		//bailiwick:check TestFalseEvidence
		if err := s.Verify(key); err != nil {
			return Finding{}, fmt.Errorf("%w: %w", ErrProof, err)
		}
		if !key.covers(s.HLC) {
			return Finding{}, fmt.Errorf("%w: %w", ErrProof, ErrExpired)
		}
	}
	if p.Form == formFalse {
		if _, err := refute(p.accusation, keys); errors.Is(err, ErrUncheckable) {
			return Finding{}, err
		} else if err != nil {
			return Finding{}, fmt.Errorf("%w: %w", ErrProof, err)
		}
	}
	class := p.class(key.Attested)
	return Finding{
		Accused: p.first.origin, Class: class, Digest: p.digest(class), Attested: key.Attested,
		Epoch: p.first.Epoch, LastGood: p.lastGood,
	}, nil
}

// Headers returns the one or two signed headers of a proof, for showing them.
func Headers(b []byte) ([]Signed, error) {
	p, err := parseProof(b)
	if err != nil {
		return nil, err
	}
	return p.headers(), nil
}

// headers are the one or two that it is about.
func (p parsedProof) headers() []Signed {
	if p.Form == formPair {
		return []Signed{p.first, p.second}
	}
	return []Signed{p.first}
}

// ForeignKeyOf returns the key that a proof of a foreign key is about, and which op of the
// record writes it, for showing them; ok is false for other proofs.
func ForeignKeyOf(b []byte) (key string, op int, ok bool) {
	p, err := parseProof(b)
	if err != nil || p.Form != formKey {
		return "", 0, false
	}
	return p.foreign, p.op, true
}

// contradict reports whether one honest writer cannot have signed both.
func contradict(a, b Signed) bool {
	if a.Seq > b.Seq {
		a, b = b, a
	}
	return a.Seq == b.Seq && a.id != b.id || a.Seq+1 == b.Seq && b.Prev != a.id
}

// commonBefore returns the last record that two contradicting headers can share.
func commonBefore(a, b Signed) uint64 {
	if a.Seq == b.Seq && a.Prev != b.Prev && a.Seq > 1 {
		return a.Seq - 2
	}
	return min(a.Seq, b.Seq) - 1
}

func ordered(a, b Signed) bool {
	return a.Seq < b.Seq || a.Seq == b.Seq && bytes.Compare(a.id[:], b.id[:]) < 0
}

// proven returns the verdict for two headers and its proof.
func (c *Chain) proven(v Verdict, reason error, l *line, x, y []byte) Result {
	a, errA := ParseSigned(x)
	b, errB := ParseSigned(y)
	if err := errors.Join(errA, errB); err != nil {
		return Result{Err: fmt.Errorf("read headers of %s back: %w", l.key.Feed(), err)}
	}
	if !ordered(a, b) {
		a, b = b, a
	}
	return c.pack(v, fmt.Errorf("%w: %s, records %d and %d", reason, l.key.Feed(), a.Seq, b.Seq),
		proof{Form: formPair, Cert: l.key.Cert, First: a.Statement(), Second: b.Statement()})
}

func (c *Chain) foreign(l *line, rec Record, ops []Op, i int) Result {
	ls, err := leaves(ops)
	if err != nil {
		return Result{Err: err}
	}
	hashes := make([][32]byte, len(ls))
	for j := range ls {
		hashes[j] = leafHash(ls[j])
	}
	return c.pack(ForeignKey, fmt.Errorf("%w: %s in record %d of %s", ErrForeign, ops[i].Key, rec.Seq, rec.Feed()),
		proof{Form: formKey, Cert: l.key.Cert, First: rec.Statement(), Leaf: ls[leafOf(i)], Index: uint16(leafOf(i)), Path: treePath(hashes, leafOf(i))})
}

func (c *Chain) pack(v Verdict, reason error, p proof) Result {
	b, err := statement.Marshal(p)
	if err != nil {
		return Result{Err: err}
	}
	return Result{Verdict: v, Proof: b, Err: reason}
}
