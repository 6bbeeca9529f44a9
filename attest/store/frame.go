package store

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
)

// The journal's layout; the package doc has it in words.
const (
	blockSize   = 4096
	journalHead = "bailiwick journal 1\n" // then the store's ID, in a block of its own
	frameMagic  = 0x4257_4a46             // "BWJF"
	frameHead   = 56                      // magic u32, length u32, generation u64, index u64, prev, sum
	sumAt       = 40
)

type (
	storeID [16]byte
	sum     [16]byte // the first half of a SHA-256
)

// mark says what of a journal the database has absorbed: everything up to the
// end of a generation. It is kept in the database under markKey.
type mark struct {
	id         storeID
	generation uint64
	last       sum // of the last frame; random where changes came without a journal
}

func newMark() (m mark) {
	rand.Read(m.id[:])
	return m
}

func (m mark) marshal() []byte {
	return append(binary.BigEndian.AppendUint64(bytes.Clone(m.id[:]), m.generation), m.last[:]...)
}

func parseMark(b []byte) (m mark, err error) {
	if len(b) != len(m.id)+8+len(m.last) {
		return m, fmt.Errorf("%w: its mark of the journal has %d bytes", ErrCorrupt, len(b))
	}
	copy(m.id[:], b)
	m.generation = binary.BigEndian.Uint64(b[len(m.id):])
	copy(m.last[:], b[len(m.id)+8:])
	return m, nil
}

// journalHeader is journalHead, the store's ID, and the size of a place u32.
func journalHeader(id storeID, place int) []byte {
	b := append([]byte(journalHead), id[:]...)
	return binary.BigEndian.AppendUint32(b, uint32(place))
}

// frame is what one commit appends. Its place is a multiple of blockSize.
type frame struct {
	generation, index uint64 // index counts a generation's frames from 0
	prev, sum         sum    // prev is the sum of the frame before, of whichever generation
	body              []byte // changes
	size              int    // in the journal, with padding
}

// appendFrame encodes a frame of changes behind b, and returns its sum.
func appendFrame(b []byte, id storeID, generation, index uint64, prev sum, changes []*change) ([]byte, sum) {
	start := len(b)
	b = binary.BigEndian.AppendUint32(b, frameMagic)
	b = binary.BigEndian.AppendUint32(b, 0)
	b = binary.BigEndian.AppendUint64(b, generation)
	b = binary.BigEndian.AppendUint64(b, index)
	b = append(b, prev[:]...)
	b = append(b, id[:]...) // where the sum comes
	for _, c := range changes {
		b = appendChange(b, c)
	}
	f := b[start:]
	binary.BigEndian.PutUint32(f[4:], uint32(len(f)-frameHead))
	full := sha256.Sum256(f)
	s := sum(full[:len(sum{})])
	copy(f[sumAt:], s[:])
	return append(b, zeros[:-len(f)&(blockSize-1)]...), s
}

// frameSum is the sum of a frame with the store's ID in the sum's own place:
// nobody who does not know the ID can make bytes that, kept as a value, look like
// a frame.
func frameSum(id storeID, f []byte) sum {
	h := sha256.New()
	h.Write(f[:sumAt])
	h.Write(id[:])
	h.Write(f[frameHead:])
	return sum(h.Sum(nil)[:len(sum{})])
}

// parseFrame reads the frame at the start of b, if there is a whole one.
func parseFrame(b []byte, id storeID) (f frame, ok bool) {
	if len(b) < frameHead || binary.BigEndian.Uint32(b) != frameMagic {
		return f, false
	}
	n := binary.BigEndian.Uint32(b[4:])
	if uint64(n) > uint64(len(b)-frameHead) {
		return f, false
	}
	b = b[: frameHead+int(n) : len(b)]
	f = frame{
		generation: binary.BigEndian.Uint64(b[8:]), index: binary.BigEndian.Uint64(b[16:]), body: b[frameHead:],
		size: (len(b) + blockSize - 1) &^ (blockSize - 1),
	}
	copy(f.prev[:], b[24:])
	copy(f.sum[:], b[sumAt:])
	return f, f.sum == frameSum(id, b)
}

// parseJournal returns the changes that a database with this mark lacks, and its
// mark with them. Errors wrap ErrJournal.
func parseJournal(b []byte, m mark) (changes []*change, end mark, err error) {
	size, err := placeSize(b, m.id)
	if err != nil {
		return nil, m, err
	}
	end = m
	var count uint64 // frames of the last generation
	for size > 0 {
		start := blockSize + int((end.generation+1)%2)*size
		rest := b[min(start, len(b)):min(start+size, len(b))]
		n := uint64(0)
		for ; ; n++ {
			f, ok := parseFrame(rest, m.id)
			if !ok || f.generation != end.generation+1 || f.index != n || f.prev != end.last {
				break
			}
			more, err := decodeChanges(f.body)
			if err != nil {
				return nil, m, fmt.Errorf("%w: frame %d of generation %d: %w; open it once with the version that wrote it", ErrJournal, n, f.generation, err)
			}
			changes = append(changes, more...)
			end.last = f.sum
			rest = rest[min(f.size, len(rest)):]
		}
		if n == 0 {
			break
		}
		end.generation++
		count = n
	}
	return changes, end, stray(b, m, end, count)
}

// placeSize reads the header. A torn one, of a journal that never held an
// acknowledged frame, has no places.
func placeSize(b []byte, id storeID) (int, error) {
	want := journalHeader(id, 0)
	size := len(want) - 4
	switch torn := bytes.TrimRight(b[:min(len(b), size)], "\x00"); {
	case len(b) >= len(want) && bytes.Equal(b[:size], want[:size]):
		if n := binary.BigEndian.Uint32(b[size:]); n > 0 && n%blockSize == 0 && n <= maxJournal {
			return int(n), nil
		}
	case bytes.HasPrefix(want, torn):
		return 0, nil
	case bytes.HasPrefix(b, []byte(journalHead)):
		return 0, fmt.Errorf("%w: it is another database's", ErrJournal)
	}
	return 0, fmt.Errorf("%w: the file is no journal of this version, or its header is damaged", ErrJournal)
}

// stray looks for a frame that was durable and is not among those read: one
// that came after a damaged one, or continues a database that we have not.
func stray(b []byte, m, end mark, count uint64) error {
	for at := blockSize; at < len(b); at += blockSize {
		f, ok := parseFrame(b[at:], m.id)
		switch {
		case !ok || f.generation <= m.generation:
		case f.generation < end.generation, f.generation == end.generation && f.index < count:
		case f.generation == end.generation:
			return fmt.Errorf("%w: frame %d of generation %d is damaged, and %d came after it", ErrJournal, count, f.generation, f.index)
		default:
			return fmt.Errorf("%w: what is known ends with generation %d, and frame %d of generation %d continues another copy of the database, or changes that are damaged",
				ErrJournal, end.generation, f.index, f.generation)
		}
	}
	return nil
}
