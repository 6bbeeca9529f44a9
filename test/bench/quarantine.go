package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"time"

	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
	"github.com/bailiwick-mesh/bailiwick/identity/epoch"
	"github.com/bailiwick-mesh/bailiwick/test/sim"
)

var quarantineBenches = []bench{
	cutOff,
	{
		area: "quarantine", name: "verify-proof", unit: "µs/proof",
		reference: "the 3 signatures in it (certificate and two headers) by crypto/ecdsa VerifyASN1, digests made before",
		note:      "from the bytes of an equivocation proof to its finding, with nothing cached; one core",
		prepare:   func(_ string, s size) (sides, error) { return verifyProof(s.pick(1000, 2)) },
	},
	{
		area: "quarantine", name: "convicted-1000", unit: "ms from the second of two contradicting records until the last honest node has convicted, durably", aim: 50, once: true,
		reference: "the slowest delivery of an update in the same run",
		note:      "simulated (test/sim): the real core in a region of 1,000 nodes, links of 0.25 to 0.75 ms, verification and commits at each hop",
		prepare:   func(_ string, s size) (sides, error) { return convicted(s.pick(1000, 10)), nil },
	},
}

// convicted has one node tell two stories. Both figures are of one run.
func convicted(nodes int) sides {
	var ran map[string]float64
	figure := func(name string) func() (float64, error) {
		return func() (float64, error) {
			if ran != nil {
				return ran[name], nil
			}
			s, err := sim.Parse(fmt.Sprintf("nodes %d\nwriters %d\nadversary equivocator 1\nat 500ms write 20 every 20ms\nat 2s write 10 every 20ms\nrun 4s\nexpect spared = 0\nexpect harmed = 0", nodes, min(20, nodes/2)))
			if err != nil {
				return 0, err
			}
			r, err := sim.Run(s)
			if err != nil {
				return 0, err
			}
			ran = r.Values
			return ran[name], nil
		}
	}
	return sides{ours: figure("convicted"), reference: figure("last")}
}

func verifyProof(count int) (sides, error) {
	root, err := epoch.NewRoot(region, time.Now())
	if err != nil {
		return sides{}, err
	}
	proof, priv, err := equivocation(root)
	if err != nil {
		return sides{}, err
	}
	keys := keyFunc(root)
	digest := sha256.Sum256(proof)
	sig, err := ecdsa.SignASN1(rand.Reader, priv, digest[:])
	if err != nil {
		return sides{}, err
	}
	return sides{
		ours: func() (float64, error) {
			return oneCore(func() (float64, error) {
				return micros(count, func() error {
					for range count {
						f, err := feed.VerifyProof(proof, keys)
						if err != nil || f.Class != feed.ClassEquivocation || !f.Convicts() {
							return fmt.Errorf("finding %q: %w", f.Class, err)
						}
					}
					return nil
				})
			})
		},
		reference: func() (float64, error) {
			return oneCore(func() (float64, error) {
				return micros(count, func() error { return verifyAll(&priv.PublicKey, digest, sig, 3*count) })
			})
		},
	}, nil
}

// keyFunc verifies epoch certificates under the region's record root.
func keyFunc(root *epoch.Root) feed.KeyFunc {
	roots := []*x509.Certificate{root.Certificate()}
	return func(der []byte) (feed.EpochKey, error) {
		c, err := epoch.Verify(der, roots, region, time.Now())
		if err != nil {
			return feed.EpochKey{}, err
		}
		return feed.EpochKey{
			Origin: c.ID, Epoch: c.Epoch, Key: c.Key, Class: c.Class, Attested: c.Attested(),
			NotBefore: c.NotBefore, NotAfter: c.NotAfter, Cert: der,
		}, nil
	}
}

// equivocation has a node sign two histories and returns the proof a third one
// makes of them.
func equivocation(root *epoch.Root) ([]byte, *ecdsa.PrivateKey, error) {
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	approved, err := root.Check(epoch.Request{ID: writerID, Epoch: 1, Class: "node", Key: &priv.PublicKey, Now: time.Now()})
	if err != nil {
		return nil, nil, err
	}
	der, err := root.Issue(approved)
	if err != nil {
		return nil, nil, err
	}
	key, err := keyFunc(root)(der)
	if err != nil {
		return nil, nil, err
	}
	seen := map[uint64][]byte{}
	chain := feed.NewChain(writerID, feed.DefaultKinds(), func(_ feed.FeedID, seq uint64) []byte { return seen[seq] })
	if err := chain.SetKey(key); err != nil {
		return nil, nil, err
	}
	var res feed.Result
	for _, from := range []time.Time{time.Now(), time.Now().Add(time.Millisecond)} {
		wire, err := signedRecords(key, priv, from, 1, 1)
		if err != nil {
			return nil, nil, err
		}
		rec, err := feed.Parse(wire[0])
		if err != nil {
			return nil, nil, err
		}
		if res = chain.Admit(from, rec); res.Verdict == feed.Admitted {
			seen[rec.Seq] = rec.Statement()
		}
	}
	if res.Verdict != feed.Fork {
		return nil, nil, fmt.Errorf("two histories: %s, want a fork: %w", res.Verdict, res.Err)
	}
	return res.Proof, priv, nil
}
