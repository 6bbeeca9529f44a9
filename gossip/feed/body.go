package feed

import (
	"crypto/sha256"
	"fmt"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
)

func encodeBody(ops []Op) ([]byte, error) {
	if len(ops) > MaxOps {
		return nil, fmt.Errorf("%w: %d ops, at most %d", ErrTooLarge, len(ops), MaxOps)
	}
	body, err := statement.Marshal(ops)
	if err != nil {
		return nil, err
	}
	if len(body) > MaxBody {
		return nil, fmt.Errorf("%w: body of %d bytes, at most %d", ErrTooLarge, len(body), MaxBody)
	}
	return body, nil
}

// readBody reads a body, whose ops all have their proper shape, and its ops root.
// One signature stands for many ops, so what each of them costs counts: a body is
// read in one pass, nothing of it is copied to the heap but the text of its keys,
// and leaves are put together from its own bytes.
func readBody(body []byte) (ops []Op, root [32]byte, err error) {
	if len(body) > MaxBody {
		return nil, root, ErrTooLarge
	}
	r := bodyReader{Reader: statement.NewReader(body), body: body}
	n := r.Array()
	if n > MaxOps {
		return nil, root, ErrTooLarge
	}
	var (
		values = append(make([]byte, 0, 1+MaxBody), leafPrefix)   // leaf 0: no longer than the body
		heads  = make([]byte, 0, MaxBody+2*(MaxOps/headsPerLeaf)) // all other leaves
		keys   [MaxOps]struct{ from, to uint16 }                  // in heads
		hashes [1 + MaxOps/headsPerLeaf][32]byte
		leaf   int // where the last one begins
	)
	ops = make([]Op, n)
	values = append(values, body[:r.at()]...) // an array as long
	for i := range ops {
		if i%headsPerLeaf == 0 {
			leaf = len(heads)
			heads = append(heads, leafPrefix, 0x80|byte(min(headsPerLeaf, len(ops)-i)))
		}
		as := r.op(&ops[i])
		if r.Failed() {
			return nil, root, fmt.Errorf("%w: op %d is not in its one deterministic spelling", errOp, i)
		}
		values = append(values, as.value...)
		heads = append(heads, 0xa0|as.fields)
		keys[i].from, keys[i].to = uint16(len(heads)+as.keyFrom), uint16(len(heads)+as.keyTo)
		heads = append(append(heads, as.before...), as.after...)
		if i%headsPerLeaf == headsPerLeaf-1 || i == len(ops)-1 {
			hashes[leafOf(i)] = sha256.Sum256(heads[leaf:])
		}
	}
	if !r.Done() {
		return nil, root, fmt.Errorf("%w: something else than ops", errOp)
	}
	hashes[0] = sha256.Sum256(values)
	text := string(heads)
	var key Key
	for i := range ops {
		ops[i].Key = text[keys[i].from:keys[i].to]
		if key, err = ops[i].shape(key); err != nil {
			return nil, root, err
		}
	}
	return ops, fold(hashes[:leavesOf(len(ops))]), nil
}

// bodyReader reads a body.
type bodyReader struct {
	statement.Reader
	body []byte
}

// spelling is what an op is made of in its body.
type spelling struct {
	fields         byte   // without the value
	before, after  []byte // the value: all else
	value          []byte
	keyFrom, keyTo int // in before
}

// absent is how leaf 0 spells the value of an op that has none.
var absent = []byte{0x40}

// at is the place of the next byte to read.
func (r *bodyReader) at() int { return len(r.body) - r.Left() }

// op reads the next op but for its key.
func (r *bodyReader) op(op *Op) spelling {
	as := spelling{fields: 3, value: absent}
	pairs, start := r.Map(), r.at()
	r.Label(1)
	key := r.Text()
	as.keyTo = r.at() - start
	as.keyFrom = as.keyTo - len(key)
	r.Label(2)
	op.Action = Action(r.small())
	end := r.at()
	as.before = r.body[start:end]
	if r.Has(3) {
		op.Value = r.Bytes()
		r.Require(len(op.Value) > 0)
		as.value, end = r.body[min(end+1, r.at()):r.at()], r.at()
		pairs--
	}
	r.Label(4)
	op.Scope = Scope(r.small())
	if pairs > uint64(as.fields) {
		op.Written = r.written()
		as.fields++
	}
	as.after = r.body[end:r.at()]
	r.Require(pairs == uint64(as.fields))
	return as
}

func (r *bodyReader) written() *Written {
	w := &Written{}
	r.Label(5)
	r.Require(r.Map() == 4)
	r.Label(1)
	w.Epoch = r.Uint()
	r.Label(2)
	w.Seq = r.Uint()
	r.Label(3)
	id := r.Bytes()
	r.Require(copy(w.Record[:], id) == len(w.Record) && len(id) == len(w.Record))
	r.Label(4)
	w.HLC = HLC(r.Uint())
	return w
}

// small reads an integer below 256.
func (r *bodyReader) small() byte {
	n := r.Uint()
	r.Require(n <= 255)
	return byte(n)
}
