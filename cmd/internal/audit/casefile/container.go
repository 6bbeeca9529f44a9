package casefile

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"strings"
)

// Bounds of a case file.
const (
	MaxFile    = 256 << 20 // bytes
	maxEntries = 60_000    // the zip format's own limit is 65,535
	maxName    = 200       // bytes
)

// ErrContainer means that a file is no case file, or not in its one spelling: a
// zip of stored entries with nothing before, between or after them.
var ErrContainer = errors.New("not a case file")

// entry is one file of the container.
type entry struct {
	name string
	data []byte
}

const (
	localSig   = 0x04034b50
	centralSig = 0x02014b50
	endSig     = 0x06054b50
	version    = 20       // 2.0: the oldest that knows folders
	date       = 1<<5 | 1 // 1 January 1980, the zero of the format; time is 0
	localLen   = 30
	endLen     = 22
)

// pack writes entries as a zip (APPNOTE 6.3): stored, in order, without dates,
// attributes, comments or extra fields. Equal entries give equal bytes.
func pack(entries []entry) []byte {
	var out, central bytes.Buffer
	le := binary.LittleEndian
	for _, e := range entries {
		offset := out.Len()
		fields := le.AppendUint16(nil, version)
		fields = le.AppendUint16(fields, 0) // flags
		fields = le.AppendUint16(fields, 0) // stored
		fields = le.AppendUint16(fields, 0) // time
		fields = le.AppendUint16(fields, date)
		fields = le.AppendUint32(fields, crc32.ChecksumIEEE(e.data))
		fields = le.AppendUint32(fields, uint32(len(e.data)))
		fields = le.AppendUint32(fields, uint32(len(e.data)))
		fields = le.AppendUint16(fields, uint16(len(e.name)))
		fields = le.AppendUint16(fields, 0) // extra
		out.Write(le.AppendUint32(nil, localSig))
		out.Write(fields)
		out.WriteString(e.name)
		out.Write(e.data)

		c := le.AppendUint32(nil, centralSig)
		c = le.AppendUint16(c, version) // made by
		c = append(c, fields...)
		c = append(c, make([]byte, 2+2+2+4)...) // comment, disk, attributes
		c = le.AppendUint32(c, uint32(offset))
		central.Write(c)
		central.WriteString(e.name)
	}
	end := le.AppendUint32(nil, endSig)
	end = append(end, 0, 0, 0, 0) // disks
	end = le.AppendUint16(end, uint16(len(entries)))
	end = le.AppendUint16(end, uint16(len(entries)))
	end = le.AppendUint32(end, uint32(central.Len()))
	end = le.AppendUint32(end, uint32(out.Len()))
	end = append(end, 0, 0) // comment
	out.Write(central.Bytes())
	out.Write(end)
	return out.Bytes()
}

// unpack reads what pack wrote, and nothing else: whatever would not be written
// again as the same bytes is refused. The data are slices of b.
func unpack(b []byte) ([]entry, error) {
	if len(b) > MaxFile {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrContainer, len(b), MaxFile)
	}
	if len(b) < endLen {
		return nil, fmt.Errorf("%w: %d bytes are too few", ErrContainer, len(b))
	}
	le := binary.LittleEndian
	var out []entry
	for rest := b; len(rest) >= localLen && le.Uint32(rest) == localSig; {
		size, name := int64(le.Uint32(rest[18:])), int64(le.Uint16(rest[26:]))
		if name == 0 || name > maxName || localLen+name+size > int64(len(rest)) || len(out) == maxEntries {
			return nil, fmt.Errorf("%w: entry %d does not fit", ErrContainer, len(out))
		}
		e := entry{string(rest[localLen : localLen+name]), rest[localLen+name : localLen+name+size]}
		if !plainName(e.name) {
			return nil, fmt.Errorf("%w: entry %d: name %q", ErrContainer, len(out), e.name)
		}
		out, rest = append(out, e), rest[localLen+name+size:]
	}
	if !slices.IsSortedFunc(out, func(a, b entry) int { return strings.Compare(a.name, b.name) }) {
		return nil, fmt.Errorf("%w: its entries are not sorted", ErrContainer)
	}
	for i := 1; i < len(out); i++ {
		if out[i].name == out[i-1].name {
			return nil, fmt.Errorf("%w: %s is there twice", ErrContainer, out[i].name)
		}
	}
	//bailiwick:check TestFlippedBit/as_it_is
	if !bytes.Equal(pack(out), b) {
		return nil, fmt.Errorf("%w: a zip, but not as one is written: it was changed or packed by another program", ErrContainer)
	}
	return out, nil
}

// plainName refuses names that unpack outside a folder, or to another file on
// another system.
func plainName(s string) bool {
	for part := range strings.SplitSeq(s, "/") {
		if part == "" || strings.Trim(part, ".") == "" {
			return false
		}
	}
	return strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789./-_") == ""
}
