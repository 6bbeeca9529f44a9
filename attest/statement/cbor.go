package statement

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/fxamacker/cbor/v2"
)

// maxDepth bounds how deeply payloads nest, so that hostile bytes cannot make a
// reader recurse. Nothing of ours nests deeper than five.
const maxDepth = 8

var encoder = must(cbor.EncOptions{
	Sort:          cbor.SortBytewiseLexical, // RFC 8949 §4.2.1
	IndefLength:   cbor.IndefLengthForbidden,
	TagsMd:        cbor.TagsForbidden,
	Time:          cbor.TimeUnix,
	NilContainers: cbor.NilContainerAsEmpty, // nil and empty are one value, so one spelling
}.EncMode())

var decoder = must(cbor.DecOptions{
	DupMapKey:         cbor.DupMapKeyEnforcedAPF,
	IndefLength:       cbor.IndefLengthForbidden,
	TagsMd:            cbor.TagsForbidden,
	ExtraReturnErrors: cbor.ExtraDecErrorUnknownField,
	MaxNestedLevels:   maxDepth,
	MaxArrayElements:  16 << 10,
	MaxMapPairs:       16 << 10,
	UTF8:              cbor.UTF8RejectInvalid,
	FieldNameMatching: cbor.FieldNameMatchingCaseSensitive,
}.DecMode())

func must[T any](mode T, err error) T {
	if err != nil {
		panic(err) // the options above are constants: they are right or the program never starts
	}
	return mode
}

// Marshal writes v as deterministic CBOR. Use `cbor:"n,keyasint"` tags: numbers
// are small and a renamed Go field does not change the bytes.
func Marshal(v any) ([]byte, error) {
	b, err := encoder.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode %T: %w", v, err)
	}
	return b, nil
}

// Unmarshal reads b, which the caller has bounded in size, into the pointer v.
// It refuses, with ErrMalformed, unknown and repeated fields, trailing bytes,
// nesting past eight levels, and any spelling Marshal would not write.
func Unmarshal(b []byte, v any) error {
	if err := decoder.Unmarshal(b, v); err != nil {
		return fmt.Errorf("%w: %T: %v", ErrMalformed, v, err)
	}
	again, err := encoder.Marshal(v)
	if err != nil || !bytes.Equal(again, b) {
		return fmt.Errorf("%w: %T is not in its one deterministic spelling", ErrMalformed, v)
	}
	return nil
}

// First cuts the first item off a CBOR sequence (RFC 8742), which the caller has
// bounded in size. What the item is, Unmarshal judges. Errors match ErrMalformed.
func First(b []byte) (item, rest []byte, err error) {
	var raw cbor.RawMessage
	if rest, err = decoder.UnmarshalFirst(b, &raw); err != nil {
		return nil, nil, fmt.Errorf("%w: %v", ErrMalformed, err)
	}
	return raw, rest, nil
}

const (
	majorUint  = 0 << 5
	majorBytes = 2 << 5
	majorText  = 3 << 5
	majorArray = 4 << 5
	majorMap   = 5 << 5
)

// appendHead appends the shortest CBOR head of a length below 2^32.
func appendHead(out []byte, major byte, n uint64) []byte {
	switch {
	case n < 24:
		return append(out, major|byte(n))
	case n < 1<<8:
		return append(out, major|24, byte(n))
	case n < 1<<16:
		return binary.BigEndian.AppendUint16(append(out, major|25), uint16(n))
	default:
		return binary.BigEndian.AppendUint32(append(out, major|26), uint32(n))
	}
}

func appendBytes(out, b []byte) []byte {
	return append(appendHead(out, majorBytes, uint64(len(b))), b...)
}

// cutHead splits the shortest possible head of an item of this major type off b.
func cutHead(b []byte, major byte) (n uint64, rest []byte, ok bool) {
	if len(b) == 0 || b[0]&0xe0 != major {
		return 0, nil, false
	}
	switch info := b[0] & 0x1f; {
	case info < 24:
		return uint64(info), b[1:], true
	case info == 24 && len(b) >= 2 && b[1] >= 24:
		return uint64(b[1]), b[2:], true
	case info == 25 && len(b) >= 3 && b[1] != 0:
		return uint64(binary.BigEndian.Uint16(b[1:])), b[3:], true
	case info == 26 && len(b) >= 5 && (b[1] != 0 || b[2] != 0):
		return uint64(binary.BigEndian.Uint32(b[1:])), b[5:], true
	case info == 27 && len(b) >= 9 && binary.BigEndian.Uint32(b[1:]) != 0:
		return binary.BigEndian.Uint64(b[1:]), b[9:], true
	}
	return 0, nil, false
}

// cutString splits a byte or text string with the shortest possible head off b.
func cutString(b []byte, major byte) (value, rest []byte, ok bool) {
	n, rest, ok := cutHead(b, major)
	if !ok || n > uint64(len(rest)) {
		return nil, nil, false
	}
	return rest[:n:n], rest[n:], true
}
