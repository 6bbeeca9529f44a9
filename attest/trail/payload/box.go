package payload

import (
	"bytes"
	"compress/flate"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"sync"
)

const (
	boxDomain        = "bailiwick payload 1\x00"
	commitmentDomain = "bailiwick commitment 1\x00"

	keySize   = 32 // AES-256
	nonceSize = 12
	padding   = 64 // bytes; a box shows the length of a payload no closer

	// SaltSize is the length of a commitment's salt, in bytes.
	SaltSize = 32

	// MaxPayload is the largest payload, in bytes.
	MaxPayload = 1 << 20
)

// Box is a sealed payload.
type Box struct {
	Key string `json:"key"` // day and ID of the key it is under
	Box []byte `json:"box"` // see the package doc
}

// ErrBox means that a box is not what was sealed under its key for that record: it was changed, or belongs
// to another.
var ErrBox = errors.New("a sealed payload was changed, or is of another record")

// Salt is a new salt for a Commit.
func Salt() []byte {
	b := make([]byte, SaltSize)
	rand.Read(b) // never fails
	return b
}

// Commit binds whoever publishes it to a payload, and shows nothing of it to those who do not know the salt. The
// salt must have SaltSize bytes and be used once.
func Commit(salt, payload []byte) [sha256.Size]byte {
	h := sha256.New()
	h.Write([]byte(commitmentDomain))
	h.Write(salt)
	h.Write(payload)
	return [sha256.Size]byte(h.Sum(nil))
}

var deflaters = sync.Pool{New: func() any {
	w, err := flate.NewWriter(nil, flate.BestSpeed)
	if err != nil {
		panic(err) // of a level that is not one
	}
	return w
}}

// inflaters are as dear to make as deflaters, and a replay opens many boxes.
var inflaters = sync.Pool{New: func() any { return flate.NewReader(bytes.NewReader(nil)) }}

// seal is the format, with its nonce given.
func seal(key, nonce []byte, name string, payload []byte) ([]byte, error) {
	if len(payload) > MaxPayload {
		return nil, fmt.Errorf("a payload of %d bytes, at most %d", len(payload), MaxPayload)
	}
	var plain bytes.Buffer
	w := deflaters.Get().(*flate.Writer)
	defer deflaters.Put(w)
	w.Reset(&plain)
	if _, err := w.Write(payload); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	plain.Write(make([]byte, (padding-plain.Len()%padding)%padding))
	aead, err := newAEAD(key)
	if err != nil {
		return nil, err
	}
	return aead.Seal(bytes.Clone(nonce), nonce, plain.Bytes(), []byte(boxDomain+name)), nil
}

// unseal is the reverse. Its error wraps ErrBox.
func unseal(key []byte, name string, box []byte) ([]byte, error) {
	if len(box) < nonceSize {
		return nil, fmt.Errorf("%w: %d bytes", ErrBox, len(box))
	}
	aead, err := newAEAD(key)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBox, err)
	}
	plain, err := aead.Open(nil, box[:nonceSize], box[nonceSize:], []byte(boxDomain+name))
	if err != nil {
		return nil, fmt.Errorf("%w: %s", ErrBox, name)
	}
	r := inflaters.Get().(io.ReadCloser)
	defer inflaters.Put(r)
	if err := r.(flate.Resetter).Reset(bytes.NewReader(plain), nil); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrBox, name, err)
	}
	out, err := io.ReadAll(io.LimitReader(r, MaxPayload+1))
	if err != nil || len(out) > MaxPayload {
		return nil, fmt.Errorf("%w: %s does not inflate: %v", ErrBox, name, err)
	}
	return out, nil
}

func newAEAD(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}
