package policy

import (
	"encoding/binary"
	"slices"
	"unsafe"
)

// Bounds of what is remembered. Whatever is larger is evaluated each time.
const (
	maxKey        = 512 // bytes
	maxSortedKeys = 16  // entries of a map that is read as a whole
)

// answerKey appends to b, which has room for maxKey bytes, all that the answer to in depends on: the
// view of in, which levels have ended, and whether their authority is out of reach. It allocates nothing. Nil means that in is to be
// evaluated: it is not valid, or not of a size that is remembered.
func (v *view) answerKey(in *Input, isolated bool, b []byte) []byte {
	if v == nil || in.ended() || in.Policy.Levels != nil {
		return nil
	}
	if _, err := v.shape.misfit(in); err != nil {
		return nil
	}
	for _, l := range v.levels {
		b = appendFlag(b, l.expired(in))
	}
	return appendStruct(appendFlag(b, isolated), v.fields, unsafe.Pointer(in), in)
}

// appendStruct appends the fields of the struct at base, or returns nil.
func appendStruct(b []byte, fields []viewField, base unsafe.Pointer, in *Input) []byte {
	for i := range fields {
		if len(b) > maxKey-16 {
			return nil
		}
		switch f := &fields[i]; f.form {
		case formText:
			b = appendText(b, field[string](base, f))
		case formFlag:
			b = appendFlag(b, field[bool](base, f))
		case formInt:
			b = binary.LittleEndian.AppendUint64(b, uint64(field[int](base, f)))
		case formInt64, formUint64:
			b = binary.LittleEndian.AppendUint64(b, field[uint64](base, f))
		case formUint32:
			b = binary.LittleEndian.AppendUint32(b, field[uint32](base, f))
		case formTexts:
			b = appendTexts(b, field[[]string](base, f))
		case formTable:
			b = appendTable(b, field[map[string]string](base, f), f.keys)
		case formLevels: // their ages, which the generation derives from the time
			b = binary.LittleEndian.AppendUint64(b, uint64(in.Time.Unix))
		case formStruct:
			b = appendStruct(b, f.sub, unsafe.Add(base, f.offset), in)
		case formOptional:
			to := field[unsafe.Pointer](base, f)
			b = appendFlag(b, to != nil)
			if to != nil {
				b = appendStruct(b, f.sub, to, in)
			}
		case formInts, formLists, formFacts:
			if field[unsafe.Pointer](base, f) != nil { // a map is a pointer, a slice begins with one
				return nil
			}
		}
		if b == nil {
			return nil
		}
	}
	return b
}

func appendFlag(b []byte, v bool) []byte {
	if v {
		return append(b, 1)
	}
	return append(b, 0)
}

func appendText(b []byte, s string) []byte {
	if len(b)+len(s) > maxKey-2 {
		return nil
	}
	b = binary.LittleEndian.AppendUint16(b, uint16(len(s)))
	return append(b, s...)
}

func appendTexts(b []byte, s []string) []byte {
	if len(s) > MaxList || len(b) > maxKey-2 {
		return nil
	}
	b = binary.LittleEndian.AppendUint16(b, uint16(len(s)))
	for _, x := range s {
		if b = appendText(b, x); b == nil {
			return nil
		}
	}
	return b
}

// appendTable appends the entries of some names, or of all.
func appendTable(b []byte, m map[string]string, names []string) []byte {
	if names == nil {
		return appendWholeTable(b, m)
	}
	for _, name := range names {
		v, ok := m[name]
		if len(b) == maxKey {
			return nil
		}
		if b = appendText(appendFlag(b, ok), v); b == nil {
			return nil
		}
	}
	return b
}

func appendWholeTable(b []byte, m map[string]string) []byte {
	if len(m) > maxSortedKeys {
		return nil
	}
	var room [maxSortedKeys]string
	names := room[:0]
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	b = append(b, byte(len(m)))
	for _, name := range names {
		if b = appendText(b, name); b == nil {
			return nil
		}
		if b = appendText(b, m[name]); b == nil {
			return nil
		}
	}
	return b
}
