package statement

// Reader reads deterministic CBOR item by item and copies nothing, for bytes that
// are read too often for Unmarshal. It takes the spellings that Marshal writes and
// no others: shortest heads, definite lengths. The order of a map's keys and what
// may be absent is for its user to check, and so is UTF-8.
//
// After the first item that is not what was asked for, every method returns zero,
// and Done false: a user may read all it wants and ask once. The zero value reads
// no bytes.
type Reader struct {
	rest   []byte
	failed bool
}

// NewReader reads b, which must not change meanwhile.
func NewReader(b []byte) Reader { return Reader{rest: b} }

// Done reports whether everything asked for was there, and nothing else is.
func (r *Reader) Done() bool { return !r.failed && len(r.rest) == 0 }

// Failed reports whether something asked for was not there.
func (r *Reader) Failed() bool { return r.failed }

// Left is how many bytes have not been read.
func (r *Reader) Left() int { return len(r.rest) }

// Uint reads an unsigned integer.
func (r *Reader) Uint() uint64 { return r.head(majorUint) }

// Array reads the head of an array and returns the number of its items.
func (r *Reader) Array() uint64 { return r.head(majorArray) }

// Map reads the head of a map and returns the number of its pairs.
func (r *Reader) Map() uint64 { return r.head(majorMap) }

// Bytes reads a byte string, which is part of the bytes read.
func (r *Reader) Bytes() []byte { return r.str(majorBytes) }

// Text reads a text string, which is part of the bytes read and may not be UTF-8.
func (r *Reader) Text() []byte { return r.str(majorText) }

// Label reads an integer that must be n: the key of a map's next pair.
func (r *Reader) Label(n uint64) {
	if n < 24 && r.Has(byte(n)) { // as nearly all are: a byte
		return
	}
	r.Require(r.Uint() == n)
}

// Has reports whether an integer below 24 comes next, and reads it if so: the key of a
// pair that may be absent.
func (r *Reader) Has(n byte) bool {
	if n >= 24 || len(r.rest) == 0 || r.rest[0] != n {
		return false
	}
	r.rest = r.rest[1:]
	return true
}

// Require makes the reader fail unless ok.
func (r *Reader) Require(ok bool) {
	if !ok {
		r.rest, r.failed = nil, true
	}
}

func (r *Reader) head(major byte) uint64 {
	n, rest, ok := cutHead(r.rest, major)
	r.rest = rest
	r.failed = r.failed || !ok
	return n
}

func (r *Reader) str(major byte) []byte {
	value, rest, ok := cutString(r.rest, major)
	r.rest = rest
	r.failed = r.failed || !ok
	return value
}
