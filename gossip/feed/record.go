package feed

import (
	"cmp"
	"crypto"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
)

// Bounds of encodings, in bytes.
const (
	MaxHeader = 3 << 10                  // a header's statement
	MaxRecord = MaxHeader + MaxBody + 16 // an encoded record
	maxOrigin = 2048
	maxPolicy = 128
)

var recordType = statement.Type{Name: "record", Version: 1}

// ErrRecord means bytes are not a record of version 1. It is the fault of
// whoever handed them over.
var ErrRecord = errors.New("malformed record")

// ID is a RecordID: SHA-256 of the header.
type ID [32]byte

func (id ID) String() string { return hex.EncodeToString(id[:]) }

// FeedID names a feed: one epoch of one origin.
type FeedID struct {
	Origin spiffeid.ID
	Epoch  uint64
}

// Compare orders feeds by origin, then epoch.
func (f FeedID) Compare(other FeedID) int {
	return cmp.Or(cmp.Compare(f.Origin.String(), other.Origin.String()), cmp.Compare(f.Epoch, other.Epoch))
}

func (f FeedID) String() string { return fmt.Sprintf("%s epoch %d", f.Origin, f.Epoch) }

// RecordKind says what a record is. The zero value is no record.
type RecordKind uint8

const (
	Ops      RecordKind = 1
	Snapshot RecordKind = 2
	Leave    RecordKind = 3
)

// Header is the signed part of a record. See the package doc for each field.
type Header struct {
	Kind        RecordKind `cbor:"1,keyasint"`
	Origin      string     `cbor:"2,keyasint"`
	Epoch       uint64     `cbor:"3,keyasint"`
	Seq         uint64     `cbor:"4,keyasint"`
	Prev        ID         `cbor:"5,keyasint"`
	HLC         HLC        `cbor:"6,keyasint"`
	Policy      string     `cbor:"7,keyasint"`
	TTL         uint32     `cbor:"8,keyasint"`
	Root        [32]byte   `cbor:"9,keyasint"`
	Count       uint16     `cbor:"10,keyasint"`
	Size        uint32     `cbor:"11,keyasint"`
	Traceparent string     `cbor:"12,keyasint,omitempty"`
	Base        uint64     `cbor:"13,keyasint,omitempty"`
	Parts       uint16     `cbor:"14,keyasint,omitempty"`
	Since       []Place    `cbor:"15,keyasint,omitempty"`
}

var traceparent = regexp.MustCompile(`^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$`)

func (h Header) check() (spiffeid.ID, error) {
	if len(h.Origin) > maxOrigin {
		return spiffeid.ID{}, fmt.Errorf("%w: origin of %d bytes", ErrRecord, len(h.Origin))
	}
	origin, err := spiffeid.FromString(h.Origin)
	bad := ""
	switch {
	case err != nil || origin.Path() == "":
		bad = "origin is no SPIFFE ID with a path"
	case h.Kind < Ops || h.Kind > Leave:
		bad = "unknown kind"
	//bailiwick:check TestSequenceJump/malformed
	case h.Epoch == 0 || h.Seq == 0 || h.Seq > maxSeq:
		bad = "epoch and seq start at 1, and seq is below 2^63"
	case len(h.Policy) > maxPolicy:
		bad = "policy revision too long"
	case h.Count > MaxOps || h.Size > MaxBody || h.Size == 0:
		bad = "count or size out of bounds"
	case h.Kind == Leave && h.Count != 0:
		bad = "leave with ops"
	case h.Kind == Snapshot && !h.isPart():
		bad = "a part outside of its snapshot"
	case h.Kind != Snapshot && (h.Base >= h.Seq || h.Parts != 0 || len(h.Since) != 0):
		bad = "snapshot fields in another record"
	case h.Traceparent != "" && !traceparent.MatchString(h.Traceparent):
		bad = "traceparent"
	default:
		return origin, nil
	}
	return spiffeid.ID{}, fmt.Errorf("%w: %s", ErrRecord, bad)
}

// Signed is a header with its signature, not verified yet. The zero value
// verifies under no key.
type Signed struct {
	Header
	env    statement.Envelope
	origin spiffeid.ID
	id     ID
}

// ParseSigned reads a header's statement and keeps b. Errors wrap ErrRecord.
func ParseSigned(b []byte) (Signed, error) {
	if len(b) > MaxHeader {
		return Signed{}, fmt.Errorf("%w: header of %d bytes, at most %d", ErrRecord, len(b), MaxHeader)
	}
	env, err := statement.Parse(b)
	if err != nil {
		return Signed{}, fmt.Errorf("%w: %w", ErrRecord, err)
	}
	h, ok := readHeader(env.Payload())
	if !ok {
		return Signed{}, fmt.Errorf("%w: header is not in its one deterministic spelling", ErrRecord)
	}
	s := Signed{Header: h, env: env, id: statement.Digest(env.Payload())}
	if s.origin, err = s.Header.check(); err != nil {
		return Signed{}, err
	}
	return s, nil
}

// ID returns the RecordID.
func (s Signed) ID() ID { return s.id }

// Feed returns the feed the header says it belongs to.
func (s Signed) Feed() FeedID { return FeedID{s.origin, s.Epoch} }

// Statement returns the signed bytes as received. Do not change them.
func (s Signed) Statement() []byte { return s.env.Bytes() }

// Verify reports whether key signed the header as a record of key's own feed.
func (s Signed) Verify(key EpochKey) error {
	if key.Key == nil || s.Feed() != key.Feed() {
		return fmt.Errorf("%w: header of %s under the key of %s", statement.ErrSignature, s.Feed(), key.Feed())
	}
	return s.env.Verify(key.Key, recordType, s.origin.TrustDomain().Name())
}

// Record is a parsed record, not verified yet. It is never changed and may be
// shared.
type Record struct {
	Signed
	body []byte
	raw  []byte
}

type wireRecord struct {
	Statement []byte `cbor:"1,keyasint"`
	Body      []byte `cbor:"2,keyasint"`
}

// Parse reads a record and keeps b, which the caller must not change after. It looks at the header only: whether the
// body is the header's is for Ops and Chain.Admit. Errors wrap ErrRecord.
func Parse(b []byte) (Record, error) {
	if len(b) > MaxRecord {
		return Record{}, fmt.Errorf("%w: %d bytes, at most %d", ErrRecord, len(b), MaxRecord)
	}
	r := statement.NewReader(b)
	r.Require(r.Map() == 2)
	r.Label(1)
	signed := r.Bytes()
	r.Label(2)
	body := r.Bytes()
	if !r.Done() {
		return Record{}, fmt.Errorf("%w: not {1: statement, 2: body}", ErrRecord)
	}
	s, err := ParseSigned(signed)
	if err != nil {
		return Record{}, err
	}
	return Record{Signed: s, body: body, raw: b}, nil
}

// Bytes returns the encoded record as received. Do not change it.
func (r Record) Bytes() []byte { return r.raw }

// Body returns the encoded ops as received. Do not change it.
func (r Record) Body() []byte { return r.body }

// Ops returns the record's ops if the body is the one the header was signed over,
// and an error that wraps ErrBody if not.
func (r Record) Ops() ([]Op, error) {
	if len(r.body) != int(r.Size) {
		return nil, fmt.Errorf("%w: %d bytes, header says %d", ErrBody, len(r.body), r.Size)
	}
	ops, root, err := readBody(r.body)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBody, err)
	}
	if len(ops) != int(r.Count) {
		return nil, fmt.Errorf("%w: %d ops, header says %d", ErrBody, len(ops), r.Count)
	}
	//bailiwick:check TestChangedBody
	if root != r.Root {
		return nil, fmt.Errorf("%w: ops root differs", ErrBody)
	}
	for i := range ops {
		if err := ops[i].restates(&r.Header); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrBody, err)
		}
	}
	return ops, nil
}

// sign completes the header for ops and signs it.
func sign(key crypto.Signer, h Header, ops []Op) (Record, error) {
	body, err := encodeBody(ops)
	if err != nil {
		return Record{}, err
	}
	ls, err := leaves(ops)
	if err != nil {
		return Record{}, err
	}
	h.Root, h.Count, h.Size = treeRoot(ls), uint16(len(ops)), uint32(len(body))
	origin, err := h.check()
	if err != nil {
		return Record{}, err
	}
	payload, err := statement.Marshal(h)
	if err != nil {
		return Record{}, err
	}
	st, err := statement.Sign(key, recordType, origin.TrustDomain().Name(), payload)
	if err != nil {
		return Record{}, fmt.Errorf("sign record %d of %s: %w", h.Seq, origin, err)
	}
	raw, err := statement.Marshal(wireRecord{st, body})
	if err != nil {
		return Record{}, err
	}
	return Parse(raw)
}
