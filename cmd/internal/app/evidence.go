package app

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/attest/tpm"
	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
	"github.com/bailiwick-mesh/bailiwick/gossip/replica"
	"github.com/bailiwick-mesh/bailiwick/identity/endorse"
	"github.com/bailiwick-mesh/bailiwick/policy/authority"
)

// The keys of kind attestation, by which every node of a region can judge the
// machine of any other without asking it or the issuer:
//
//	/<node>/attestation/endorsement  the authority's word whose AK it is
//	/<node>/attestation/log.<n>      the boot log, in parts: it changes once a boot
//	/<node>/attestation/current      the newest quote, and what it is bound to
const (
	evidenceName    = "current"
	endorsementName = "endorsement"
	logPrefix       = "log."
)

const (
	maxLogParts = 16
	logPart     = 14 << 10 // bytes; a part has to fit one gossiped value
	maxBeacon   = 1 << 10
)

// evidenceRecord is the value of current. It carries the beacon it is bound to as
// the authority signed it: who judges it may hold a newer one already, or none.
type evidenceRecord struct {
	Evidence []byte  `cbor:"1,keyasint"` // tpm.Evidence
	Beacon   []byte  `cbor:"2,keyasint"` // authority object
	Epoch    uint64  `cbor:"3,keyasint"` // of the node's newest record when it quoted
	Seq      uint64  `cbor:"4,keyasint"`
	Head     feed.ID `cbor:"5,keyasint"` // its RecordID; all zero before the first of an epoch
}

// logRecord is the value of one part of a boot log.
type logRecord struct {
	Log   [32]byte `cbor:"1,keyasint"` // SHA-256 of the whole
	Parts uint8    `cbor:"2,keyasint"` // 1 to maxLogParts
	Bytes []byte   `cbor:"3,keyasint"` // all parts but the last have logPart bytes
}

// attestationSchema bounds what a node may write below its attestation. What it is
// worth is not for a schema to say.
func attestationSchema(name string, value []byte) error {
	switch {
	case name == evidenceName:
		_, err := parseEvidence(value)
		return err
	case name == endorsementName:
		if len(value) == 0 || len(value) > endorse.MaxSize {
			return fmt.Errorf("endorsement of %d bytes, at most %d", len(value), endorse.MaxSize)
		}
		_, err := statement.Parse(value)
		return err
	}
	n, ok := strings.CutPrefix(name, logPrefix)
	i, err := strconv.Atoi(n)
	if !ok || err != nil || i < 0 || i >= maxLogParts || strconv.Itoa(i) != n {
		return fmt.Errorf("name %q is none of %s, %s and %s0 to %s%d", name, evidenceName, endorsementName, logPrefix, logPrefix, maxLogParts-1)
	}
	_, err = parseLogPart(value)
	return err
}

func parseEvidence(b []byte) (r evidenceRecord, err error) {
	if err := statement.Unmarshal(b, &r); err != nil {
		return r, err
	}
	if len(r.Evidence) > tpm.MaxEvidence || len(r.Beacon) > maxBeacon {
		return r, fmt.Errorf("evidence of %d bytes and beacon of %d, at most %d and %d", len(r.Evidence), len(r.Beacon), tpm.MaxEvidence, maxBeacon)
	}
	return r, nil
}

func parseLogPart(b []byte) (r logRecord, err error) {
	if err := statement.Unmarshal(b, &r); err != nil {
		return r, err
	}
	if len(r.Bytes) == 0 || len(r.Bytes) > logPart || r.Parts == 0 || r.Parts > maxLogParts {
		return r, fmt.Errorf("boot log part of %d bytes of %d parts, at most %d and %d", len(r.Bytes), r.Parts, logPart, maxLogParts)
	}
	return r, nil
}

// errLogParts means a boot log is too large to travel, so no peer can check it.
var errLogParts = errors.New("the boot log is too large to be shown to peers: it has more than 224 KiB")

// splitLog cuts a boot log into values that can travel.
func splitLog(log []byte) (parts [][]byte, err error) {
	n := (len(log) + logPart - 1) / logPart
	if n == 0 || n > maxLogParts {
		return nil, fmt.Errorf("%w: %d bytes", errLogParts, len(log))
	}
	hash := sha256.Sum256(log)
	for i := range n {
		b, err := statement.Marshal(logRecord{Log: hash, Parts: uint8(n), Bytes: log[i*logPart : min((i+1)*logPart, len(log))]})
		if err != nil {
			return nil, err
		}
		parts = append(parts, b)
	}
	return parts, nil
}

// joinLog puts the log of this hash together from the parts a node shows, or
// returns nil.
func joinLog(hash [32]byte, part func(i int) ([]byte, bool)) []byte {
	var log []byte
	for i, n := 0, 1; i < n; i++ {
		b, ok := part(i)
		if !ok {
			return nil
		}
		r, err := parseLogPart(b)
		if err != nil || r.Log != hash || i > 0 && int(r.Parts) != n {
			return nil
		}
		n = int(r.Parts)
		log = append(log, r.Bytes...)
	}
	if sha256.Sum256(log) != hash {
		return nil
	}
	return log
}

// logOf is the boot log of this hash as node's feed shows it, or nil.
func logOf(get func(string) (replica.Entry, bool), node spiffeid.ID, hash [32]byte) []byte {
	return joinLog(hash, func(i int) ([]byte, bool) {
		e, ok := get(feed.KeyOf(node, feed.KindAttestation, logPrefix+strconv.Itoa(i)))
		return e.Value, ok
	})
}

// machineOps are the ops that make the lasting part of a node's evidence what it
// should be: the endorsement, and the log part by part. Each goes in a record of
// its own, for together they are too large for one.
func machineOps(get func(string) (replica.Entry, bool), node spiffeid.ID, endorsement, log []byte) (ops []feed.Op, err error) {
	parts, err := splitLog(log)
	if err != nil {
		return nil, err
	}
	want := func(name string, value []byte) {
		key := feed.KeyOf(node, feed.KindAttestation, name)
		e, held := get(key)
		switch {
		case value == nil && held:
			ops = append(ops, feed.Op{Key: key, Action: feed.Del})
		case value != nil && (!held || !bytes.Equal(e.Value, value)):
			ops = append(ops, feed.Op{Key: key, Action: feed.Put, Value: value, Scope: feed.ScopeRegion})
		}
	}
	want(endorsementName, endorsement)
	for i := range maxLogParts {
		var value []byte
		if i < len(parts) {
			value = parts[i]
		}
		want(logPrefix+strconv.Itoa(i), value)
	}
	return ops, nil
}

// newestBeacon is the newest beacon that the authority of a region signed, as far
// as known here.
func newestBeacon(book *authority.Book, region string) (authority.Signed, authority.Beacon, bool) {
	s, ok := book.Get(authority.KindBeacon, region)
	if !ok {
		return s, authority.Beacon{}, false
	}
	b, err := s.Beacon()
	return s, b, err == nil
}
