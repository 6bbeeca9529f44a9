package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
)

var gossipBenches = []bench{
	{
		area: "gossip", name: "admission", unit: "records/s", higher: true, goal: 0.7,
		reference: "crypto/ecdsa VerifyASN1 alone, one for each record, SHA-256 done before",
		note:      "from the bytes of the wire to admitted and within the schema, one op of 100 bytes a record, one core, per second of processor time",
		prepare:   func(_ string, s size) (sides, error) { return admission(s.pick(2000, 5), 1) },
	},
	batched(4), batched(16),
	{
		area: "gossip", name: "ops", unit: "ops/s", higher: true, goal: 0.7,
		reference: "crypto/ecdsa VerifyASN1 alone, one for each record, SHA-256 done before",
		note:      "as admission with 64 ops of 100 bytes a record; limit: the verification and the SHA-256 of the ops root, with nothing else",
		prepare:   func(_ string, s size) (sides, error) { return admission(s.pick(600, 5), 64) },
	},
}

// batched is row ops with fewer ops a record.
func batched(opsEach int) bench {
	return bench{
		area: "gossip", name: fmt.Sprint("ops-", opsEach), unit: "ops/s", higher: true, goal: 0.7,
		reference: "crypto/ecdsa VerifyASN1 alone, one for each record, SHA-256 done before",
		note:      fmt.Sprintf("as ops with %d ops a record", opsEach),
		prepare:   func(_ string, s size) (sides, error) { return admission(s.pick(1200, 5), opsEach) },
	}
}

var writerID = spiffeid.RequireFromString("spiffe://east.dev.example/node/east-n1")

// admission prepares count records of an origin.
func admission(count, opsEach int) (sides, error) {
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return sides{}, err
	}
	start := time.Now()
	key := feed.EpochKey{
		Origin: writerID, Epoch: 1, Key: &priv.PublicKey, Class: "gateway", Attested: true,
		NotBefore: start, NotAfter: start.Add(24 * time.Hour),
	}
	wire, err := signedRecords(key, priv, start, count, opsEach)
	if err != nil {
		return sides{}, err
	}
	after := start.Add(time.Hour)
	digest := sha256.Sum256(wire[0])
	sig, err := ecdsa.SignASN1(rand.Reader, priv, digest[:])
	if err != nil {
		return sides{}, err
	}
	things := count * opsEach
	return sides{
		ours: func() (float64, error) {
			chain, err := newChain(key)
			if err != nil {
				return 0, err
			}
			return oneCore(func() (float64, error) {
				return perCPUSecond(things, func() error { return admitAll(chain, after, wire) })
			})
		},
		reference: func() (float64, error) {
			return oneCore(func() (float64, error) {
				return perCPUSecond(things, func() error { return verifyAll(&priv.PublicKey, digest, sig, count) })
			})
		},
		limit: func() (float64, error) {
			return oneCore(func() (float64, error) {
				return perCPUSecond(things, func() error {
					hashAll(count, opsEach)
					return verifyAll(&priv.PublicKey, digest, sig, count)
				})
			})
		},
	}, nil
}

func newChain(key feed.EpochKey) (*feed.Chain, error) {
	chain := feed.NewChain(key.Origin, feed.DefaultKinds(), func(feed.FeedID, uint64) []byte { return nil })
	return chain, chain.SetKey(key)
}

// signedRecords writes a feed by its own rules, 10 ms from record to record, over
// 128 keys.
func signedRecords(key feed.EpochKey, priv *ecdsa.PrivateKey, from time.Time, count, opsEach int) ([][]byte, error) {
	chain, err := newChain(key)
	if err != nil {
		return nil, err
	}
	w, err := feed.NewWriter(chain, key.Epoch, priv)
	if err != nil {
		return nil, err
	}
	var wire [][]byte
	value := make([]byte, 100)
	for i := range count {
		ops := make([]feed.Op, opsEach)
		for j := range ops {
			name := fmt.Sprintf("k%03d", (i*opsEach+j)%128)
			ops[j] = feed.Op{Key: feed.KeyOf(key.Origin, "x-bench", name), Action: feed.Put, Value: value, Scope: feed.ScopeRegion}
		}
		now := from.Add(time.Duration(i) * 10 * time.Millisecond)
		rec, err := w.Next(now, feed.Draft{Ops: ops, TTL: 60, Policy: "global@1+regional@1"})
		if err != nil {
			return nil, err
		}
		if res := chain.Admit(now, rec); res.Verdict != feed.Admitted {
			return nil, fmt.Errorf("own record: %s: %w", res.Verdict, res.Err)
		}
		wire = append(wire, rec.Bytes())
	}
	return wire, nil
}

func admitAll(chain *feed.Chain, now time.Time, wire [][]byte) error {
	kinds := feed.DefaultKinds()
	for _, b := range wire {
		rec, err := feed.Parse(b)
		if err != nil {
			return err
		}
		res := chain.Admit(now, rec)
		if res.Verdict != feed.Admitted {
			return fmt.Errorf("%s: %w", res.Verdict, res.Err)
		}
		for _, op := range res.Ops {
			if err := kinds.Check(op); err != nil {
				return err
			}
		}
	}
	return nil
}

// hashAll does the hashing that the ops root of count records is made of, and nothing
// else: their values, the leaves of heads, and the nodes of the tree.
func hashAll(count, opsEach int) {
	values, heads, node := make([]byte, 4+102*opsEach), make([]byte, 2+35*8), make([]byte, 65)
	leaves := (opsEach + 7) / 8
	for range count {
		sha256.Sum256(values)
		for range leaves {
			sha256.Sum256(heads[:2+35*min(opsEach, 8)])
			sha256.Sum256(node)
		}
	}
}

func verifyAll(pub *ecdsa.PublicKey, digest [32]byte, sig []byte, count int) error {
	for range count {
		if !ecdsa.VerifyASN1(pub, digest[:], sig) {
			return errors.New("a good signature does not verify")
		}
	}
	return nil
}
