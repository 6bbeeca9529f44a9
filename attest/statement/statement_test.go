package statement

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/asn1"
	"errors"
	"math/big"
	"strings"
	"testing"

	"github.com/veraison/go-cose"
)

var recordType = Type{"record", 1}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func sign(t testing.TB, key *ecdsa.PrivateKey, payload []byte) []byte {
	t.Helper()
	b, err := Sign(key, recordType, "east.dev.example", payload)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestSignParseVerify(t *testing.T) {
	key := newKey(t)
	for _, size := range []int{0, 1, 23, 24, 255, 256, 65000} {
		payload := bytes.Repeat([]byte{7}, size)
		env, err := Parse(sign(t, key, payload))
		if err != nil {
			t.Fatalf("%d bytes: %v", size, err)
		}
		if err := env.Verify(&key.PublicKey, recordType, "east.dev.example"); err != nil {
			t.Errorf("%d bytes: %v", size, err)
		}
		if !bytes.Equal(env.Payload(), payload) {
			t.Errorf("%d bytes: payload changed", size)
		}
	}
}

// Integers of a signature may be short, or begin with a set bit.
func TestSignatureAsASN1(t *testing.T) {
	for _, b := range []byte{0, 1, 0x7f, 0x80, 0xff} {
		for zeros := range signatureSize / 2 {
			var raw [signatureSize]byte
			for i := zeros; i < signatureSize/2; i++ {
				raw[i], raw[signatureSize-1-i] = b, b
			}
			want, err := asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(raw[:32]), new(big.Int).SetBytes(raw[32:])})
			if err != nil {
				t.Fatal(err)
			}
			if got := asn1Signature(raw[:]); !bytes.Equal(got, want) {
				t.Fatalf("%x is %x, want %x", raw, got, want)
			}
		}
	}
}

func TestVerifyRefuses(t *testing.T) {
	key, other := newKey(t), newKey(t)
	env, err := Parse(sign(t, key, []byte("payload")))
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		env  Envelope
		pub  *ecdsa.PublicKey
		typ  Type
		td   string
		want error
	}{
		{"other key", env, &other.PublicKey, recordType, "east.dev.example", ErrSignature},
		{"other type", env, &key.PublicKey, Type{"seal", 1}, "east.dev.example", ErrSignature},
		{"other version", env, &key.PublicKey, Type{"record", 2}, "east.dev.example", ErrSignature},
		{"other trust domain", env, &key.PublicKey, recordType, "west.dev.example", ErrSignature},
		{"zero envelope", Envelope{}, &key.PublicKey, recordType, "east.dev.example", ErrSignature},
		{"no key", env, nil, recordType, "east.dev.example", ErrKey},
		{"other curve", env, &p384.PublicKey, recordType, "east.dev.example", ErrKey},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if err := tt.env.Verify(tt.pub, tt.typ, tt.td); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
}

// TestEveryBitCounts flips each bit of a statement: none may parse and verify.
func TestEveryBitCounts(t *testing.T) {
	key := newKey(t)
	good := sign(t, key, []byte("the payload"))
	for i := range len(good) * 8 {
		bad := bytes.Clone(good)
		bad[i/8] ^= 1 << (i % 8)
		env, err := Parse(bad)
		if err == nil && env.Verify(&key.PublicKey, recordType, "east.dev.example") == nil {
			t.Errorf("bit %d of byte %d does not matter", i%8, i/8)
		}
	}
}

func TestTypeAndTrustDomainDoNotRunTogether(t *testing.T) {
	key := newKey(t)
	b, err := Sign(key, Type{"a", 'b'}, "c", nil)
	if err != nil {
		t.Fatal(err)
	}
	env, err := Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	if err := env.Verify(&key.PublicKey, Type{"ab", 'c'}, ""); !errors.Is(err, ErrSignature) {
		t.Errorf("got %v, want %v", err, ErrSignature)
	}
}

func TestSignRefuses(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Sign(rsaKey, recordType, "td", nil); !errors.Is(err, ErrKey) {
		t.Errorf("RSA key: got %v, want %v", err, ErrKey)
	}
	if _, err := Sign(newKey(t), recordType, "td", make([]byte, MaxSize)); !errors.Is(err, ErrMalformed) {
		t.Errorf("oversized payload: got %v, want %v", err, ErrMalformed)
	}
}

// TestAgainstGoCOSE has another implementation of RFC 9052 read what we write,
// and reads what it writes.
func TestAgainstGoCOSE(t *testing.T) {
	key := newKey(t)
	aad := append([]byte("\x06record\x01"), "east.dev.example"...)

	var theirs cose.UntaggedSign1Message
	if err := theirs.UnmarshalCBOR(sign(t, key, []byte("payload"))); err != nil {
		t.Fatal(err)
	}
	verifier, err := cose.NewVerifier(cose.AlgorithmES256, &key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	if err := theirs.Verify(aad, verifier); err != nil {
		t.Errorf("go-cose refuses ours: %v", err)
	}

	signer, err := cose.NewSigner(cose.AlgorithmES256, key)
	if err != nil {
		t.Fatal(err)
	}
	msg := cose.UntaggedSign1Message{Headers: cose.Headers{Protected: cose.ProtectedHeader{}}, Payload: []byte("payload")}
	msg.Headers.Protected.SetAlgorithm(cose.AlgorithmES256)
	if err := msg.Sign(rand.Reader, aad, signer); err != nil {
		t.Fatal(err)
	}
	b, err := msg.MarshalCBOR()
	if err != nil {
		t.Fatal(err)
	}
	env, err := Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	if err := env.Verify(&key.PublicKey, recordType, "east.dev.example"); err != nil {
		t.Errorf("we refuse go-cose's: %v", err)
	}
}

type sample struct {
	N    uint64            `cbor:"1,keyasint"`
	Name string            `cbor:"2,keyasint,omitempty"`
	M    map[string]string `cbor:"3,keyasint,omitempty"`
}

func TestUnmarshalRefuses(t *testing.T) {
	tests := []struct{ name, in string }{
		{"long integer", "\xa1\x01\x18\x05"},
		{"duplicate key", "\xa2\x01\x05\x01\x06"},
		{"unknown field", "\xa2\x01\x05\x09\x06"},
		{"keys out of order", "\xa2\x02\x61a\x01\x05"},
		{"present but empty", "\xa2\x01\x05\x02\x60"},
		{"indefinite length", "\xbf\x01\x05\xff"},
		{"tag", "\xc1\xa1\x01\x05"},
		{"trailing byte", "\xa1\x01\x05\x00"},
		{"truncated", "\xa1\x01"},
		{"invalid UTF-8", "\xa2\x01\x05\x02\x61\xff"},
		{"deep", strings.Repeat("\x81", 64) + "\x00"},
		{"huge array", "\x9b\xff\xff\xff\xff\xff\xff\xff\xff"},
		{"empty", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var v sample
			if err := Unmarshal([]byte(tt.in), &v); !errors.Is(err, ErrMalformed) {
				t.Errorf("got %v and %+v, want %v", err, v, ErrMalformed)
			}
		})
	}
}

func TestMarshalIsDeterministic(t *testing.T) {
	v := sample{N: 5, Name: "a", M: map[string]string{"b": "1", "a": "2", "aa": "3"}}
	first, err := Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		if again, _ := Marshal(v); !bytes.Equal(first, again) {
			t.Fatalf("%x then %x", first, again)
		}
	}
	var back sample
	if err := Unmarshal(first, &back); err != nil {
		t.Error(err)
	}
}

func FuzzParse(f *testing.F) {
	key := newKey(f)
	f.Add(sign(f, key, []byte("payload")))
	f.Add(sign(f, key, bytes.Repeat([]byte{1}, 300)))
	f.Add([]byte{0x84, 0x43, 0xa1, 0x01, 0x26, 0xa0, 0x58, 0x01, 0x00})
	f.Fuzz(func(t *testing.T, in []byte) {
		env, err := Parse(in)
		if err != nil {
			return
		}
		out := append([]byte(nil), prefix...)
		out = appendBytes(appendBytes(out, env.payload), env.signature)
		if !bytes.Equal(in, out) {
			t.Errorf("%x parses but re-encodes as %x", in, out)
		}
	})
}

func FuzzUnmarshal(f *testing.F) {
	f.Add([]byte("\xa2\x01\x05\x02\x61a"))
	f.Add([]byte("\xa1\x01\x18\x05"))
	f.Fuzz(func(t *testing.T, in []byte) {
		var v sample
		if Unmarshal(in, &v) != nil {
			return
		}
		if out, err := Marshal(v); err != nil || !bytes.Equal(in, out) {
			t.Errorf("%x decodes but encodes as %x (%v)", in, out, err)
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	key := newKey(b)
	raw := sign(b, key, make([]byte, 300))
	for b.Loop() {
		env, _ := Parse(raw)
		if env.Verify(&key.PublicKey, recordType, "east.dev.example") != nil {
			b.Fatal("does not verify")
		}
	}
}
