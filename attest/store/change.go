package store

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// op is what a change does. The numbers are the journal's.
type op byte

const (
	opPut    op = iota + 1 // bucket, key, value
	opDelete               // bucket, key
	opLeaf                 // value: an outbox entry; its sequence is the next one
	opTrim                 // key: the sequence up to which leaves are forgotten
)

// change is one step of an update, as the journal carries it. Nobody changes it
// after it was made: trees, leaves and readers share its bytes.
type change struct {
	op         op
	bucket     string
	key, value []byte // value is nil only where op carries none
}

// maxOverhead bounds what a change takes in the journal beside its bytes.
const maxOverhead = 1 + 3*binary.MaxVarintLen32

func (c *change) size() int { return maxOverhead + len(c.bucket) + len(c.key) + len(c.value) }

// appendChange encodes a change: its op, then bucket, key and value, each after
// its length as a varint.
func appendChange(b []byte, c *change) []byte {
	b = append(b, byte(c.op))
	b = append(binary.AppendUvarint(b, uint64(len(c.bucket))), c.bucket...)
	b = append(binary.AppendUvarint(b, uint64(len(c.key))), c.key...)
	return append(binary.AppendUvarint(b, uint64(len(c.value))), c.value...)
}

var errChange = errors.New("not a change of this version")

// decodeChanges reads the body of a frame, of which the changes keep parts. It
// refuses what appendChange would not write.
func decodeChanges(b []byte) (all []*change, err error) {
	for len(b) > 0 {
		c := &change{op: op(b[0])}
		var bucket []byte
		b = b[1:]
		for _, part := range []*[]byte{&bucket, &c.key, &c.value} {
			n, width := binary.Uvarint(b)
			if width <= 0 || width > 1 && b[width-1] == 0 || n > uint64(len(b)-width) {
				return nil, errChange
			}
			end := width + int(n)
			*part, b = b[width:end:end], b[end:]
		}
		c.bucket = string(bucket)
		if err := c.check(); err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	return all, nil
}

// check says whether the database can take the change, so that a checkpoint
// cannot fail over one that was acknowledged.
func (c *change) check() error {
	switch c.op {
	case opPut, opDelete:
		switch {
		case c.bucket == outboxBucket || c.bucket == ownBucket:
			return fmt.Errorf("bucket %s: it is the store's own", c.bucket)
		case len(c.bucket) == 0 || len(c.bucket) > maxKey:
			return fmt.Errorf("a bucket's name of %d bytes: 1 to %d are allowed", len(c.bucket), maxKey)
		case len(c.key) == 0 || len(c.key) > maxKey:
			return fmt.Errorf("bucket %s: a key of %d bytes: 1 to %d are allowed", c.bucket, len(c.key), maxKey)
		case len(c.value) > maxValue:
			return fmt.Errorf("%s/%x: a value of %d bytes: at most %d are allowed", c.bucket, c.key, len(c.value), maxValue)
		case c.op == opPut:
			return nil
		}
		if len(c.value) > 0 {
			return errChange
		}
		c.value = nil
	case opLeaf:
		if len(c.bucket)+len(c.key) > 0 || !wholeLeaf(c.value) {
			return errChange
		}
	case opTrim:
		if len(c.bucket)+len(c.value) > 0 || len(c.key) != 8 {
			return errChange
		}
		c.value = nil
	default:
		return errChange
	}
	return nil
}
