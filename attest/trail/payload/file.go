package payload

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
)

// DirName is the folder of keys in a node's state folder.
const DirName = "payload-keys"

const (
	maxDay   = 64 << 20 // bytes of one day's file: about 400,000 keys
	idSize   = 8
	sumSize  = 4
	maxFrame = 1<<16 - 1
)

// ErrKeys means that a file of keys is damaged other than at its end. Payloads under the keys behind the
// damage cannot be opened; put the folder back from a copy of its own, or live without them: the trail is whole.
var ErrKeys = errors.New("a file of payload keys is damaged")

// key is a frame of a file: a key, or what is left of one. It does not print its secret.
type key struct {
	ID      []byte   `cbor:"1,keyasint"`
	Serial  uint64   `cbor:"2,keyasint"`           // grows with each key of the node
	Secret  []byte   `cbor:"3,keyasint,omitempty"` // absent once it is erased, like the next three
	Subject string   `cbor:"4,keyasint,omitempty"`
	Kind    string   `cbor:"5,keyasint,omitempty"`
	Classes []string `cbor:"6,keyasint,omitempty"`
	Erased  *Erasure `cbor:"7,keyasint,omitempty"`
}

func (k *key) String() string { return "payload key " + hex.EncodeToString(k.ID) }

func (k *key) clone() *key {
	c := *k
	c.Secret = bytes.Clone(k.Secret)
	return &c
}

func (k *key) scope() string { return Scope{k.Subject, k.Kind, k.Classes}.String() }

// frame is the key's only spelling.
func (k *key) frame() ([]byte, error) {
	b, err := statement.Marshal(k)
	if err != nil {
		return nil, err
	}
	if len(b) > maxFrame {
		return nil, fmt.Errorf("a payload key of %d bytes: its subject and classes are too long", len(b))
	}
	sum := sha256.Sum256(b)
	return append(append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...), sum[:sumSize]...), nil
}

// parse reads the frames of a file. torn is where a last frame begins that is not whole, or the file's
// length. Errors wrap ErrKeys.
func parse(b []byte) (keys []*key, torn int, err error) {
	for at := 0; at < len(b); {
		rest := b[at:]
		if len(rest) < 2 || len(rest) < 2+int(binary.BigEndian.Uint16(rest))+sumSize {
			return keys, at, nil
		}
		n := 2 + int(binary.BigEndian.Uint16(rest))
		sum := sha256.Sum256(rest[2:n])
		last := at+n+sumSize == len(b)
		var k key
		if !bytes.Equal(sum[:sumSize], rest[n:n+sumSize]) {
			err = errors.New("its sum is another")
		} else if err = statement.Unmarshal(rest[2:n], &k); err == nil && (len(k.ID) != idSize || (len(k.Secret) == keySize) == (k.Erased != nil)) {
			err = errors.New("it is neither a key nor a tombstone")
		}
		if err != nil && (last || zero(rest)) { // as a crash while it was written leaves it
			return keys, at, nil
		}
		if err != nil {
			return keys, at, fmt.Errorf("%w: at byte %d: %w", ErrKeys, at, err)
		}
		keys = append(keys, &k)
		at += n + sumSize
	}
	return keys, len(b), nil
}

func zero(b []byte) bool { return len(bytes.Trim(b, "\x00")) == 0 }

// dayOf is the name of a day's file.
func dayOf(at time.Time) string { return at.UTC().Format(time.DateOnly) }

// days lists the days of a folder, oldest first; none where it is missing.
func days(dir string) (out []string, err error) {
	files, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	for _, f := range files {
		if _, bad := time.Parse(time.DateOnly, f.Name()); bad == nil {
			out = append(out, f.Name())
		}
	}
	slices.Sort(out)
	return out, err
}

// readDay reads the keys of a day; a day without any is no error.
func readDay(dir, day string) ([]*key, int, error) {
	path := filepath.Join(dir, day)
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, err
	}
	if info.Size() > maxDay {
		return nil, 0, fmt.Errorf("%w: %s has %d bytes, at most %d", ErrKeys, path, info.Size(), maxDay)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, 0, err
	}
	keys, torn, err := parse(b)
	if err != nil {
		err = fmt.Errorf("%s: %w", path, err)
	}
	return keys, torn, err
}

// sweep removes what a killed writer left beside the days: a file of keys that were to be erased.
func sweep(dir string) error {
	files, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, f := range files {
		day, rest, other := strings.Cut(f.Name(), ".")
		if _, err := time.Parse(time.DateOnly, day); other && rest != "" && err == nil {
			if err := shred(filepath.Join(dir, f.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// shred overwrites a file and removes it; one that is not there is no error.
func shred(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return errors.Join(overwrite(f), f.Close(), os.Remove(path))
}

// overwrite fills an open file with zeros, and has that on the disk.
func overwrite(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	blank := make([]byte, 64<<10)
	for at := int64(0); at < info.Size(); at += int64(len(blank)) {
		if _, err := f.WriteAt(blank[:min(int64(len(blank)), info.Size()-at)], at); err != nil {
			return err
		}
	}
	return f.Sync()
}
