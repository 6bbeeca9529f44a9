package travel

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/bundle"
	"github.com/bailiwick-mesh/bailiwick/policy/rollout"
)

var (
	key      = newKey()
	globals  = []*ecdsa.PublicKey{&key.PublicKey}
	mesh     = Slot{policy.Global, bundle.ScopeMesh}
	east     = Slot{policy.Regional, "east.dev.example"}
	n1, n2   = spiffeid.RequireFromString("spiffe://east.dev.example/node/n1"), spiffeid.RequireFromString("spiffe://east.dev.example/node/n2")
	errLost  = errors.New("the link broke")
	errWrong = errors.New("it does not compile")
)

func newKey() *ecdsa.PrivateKey {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return k
}

// content has five chunks.
func content(t testing.TB, mark string) []byte {
	t.Helper()
	noise := make([]byte, 2*bundle.ChunkSize+1)
	_, _ = rand.Read(noise)
	b, err := bundle.Content{Data: map[string]any{"mark": mark, "noise": hex.EncodeToString(noise)}}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// sign makes a record of the global level that is valid for an hour from a time on.
func sign(t testing.TB, version uint64, content []byte, from time.Time) []byte {
	t.Helper()
	return signRecord(t, version, content, from, nil)
}

// signed is sign for one that is valid now and may have a plan.
func signed(t testing.TB, version uint64, content []byte, plan *rollout.Plan) []byte {
	t.Helper()
	return signRecord(t, version, content, time.Now(), plan)
}

func signRecord(t testing.TB, version uint64, content []byte, from time.Time, plan *rollout.Plan) []byte {
	t.Helper()
	r := bundle.Record{
		Level: policy.Global, Scope: bundle.ScopeMesh, Version: version, Mode: bundle.Enforce, StaleMode: bundle.StaleContinue,
		NotBefore: from.Unix(), NotAfter: from.Add(time.Hour).Unix(), Author: "spiffe://east.dev.example/operator", Rollout: plan,
	}
	if plan != nil {
		r.Requires = []string{bundle.FeatureRollout}
	}
	b, err := bundle.Sign(key, r, content)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// node is a desk with its book, and what it took.
type node struct {
	*Desk
	st    *store.Store
	book  *bundle.Book
	wrong error // of Take

	mu    sync.Mutex
	taken []uint64
	asked map[spiffeid.ID]int
	peers map[spiffeid.ID]func(question []byte) ([]byte, error)
}

func newNode(t testing.TB, st *store.Store) *node {
	t.Helper()
	n := &node{st: st, book: bundle.NewBook(st), asked: map[spiffeid.ID]int{}, peers: map[spiffeid.ID]func([]byte) ([]byte, error){}}
	n.Desk = New(Config{
		Store: st, Global: globals, Judge: n.book.Judge, Conflict: n.book.Dispute, Log: slog.New(slog.DiscardHandler),
		Wants: func(level, scope string) bool { return Slot{level, scope} == mesh || Slot{level, scope} == east },
		Take: func(v *bundle.Verified) (refused, err error) {
			if n.wrong != nil {
				return n.wrong, nil
			}
			if err := n.book.Keep(v, false, time.Now()); err != nil {
				return nil, err
			}
			n.mu.Lock()
			defer n.mu.Unlock()
			n.taken = append(n.taken, v.Record.Version)
			return nil, nil
		},
		Held: func(chunks [32]byte) []byte {
			all, err := n.book.List()
			if err != nil {
				return nil
			}
			for _, k := range all {
				if k.Record.Chunks == chunks {
					b, _ := n.book.Content(k.Record.Level, k.Record.Scope, k.Record.Version)
					return b
				}
			}
			return nil
		},
		Peers: func(*bundle.Record) (out []spiffeid.ID) {
			n.mu.Lock()
			defer n.mu.Unlock()
			for id := range n.peers {
				out = append(out, id)
			}
			slices.SortFunc(out, func(a, b spiffeid.ID) int { return bytes.Compare([]byte(a.String()), []byte(b.String())) })
			return out
		},
		Ask: func(ctx context.Context, peer spiffeid.ID, question []byte, limit int) ([]byte, error) {
			n.mu.Lock()
			n.asked[peer]++
			answer := n.peers[peer]
			n.mu.Unlock()
			if answer == nil { // it does not answer
				<-ctx.Done()
				return nil, ctx.Err()
			}
			b, err := answer(question)
			if ctx.Err() != nil { // too late
				return nil, ctx.Err()
			}
			if len(b) > limit {
				t.Errorf("an answer of %d bytes, asked for at most %d", len(b), limit)
			}
			return b, err
		},
	})
	return n
}

func (n *node) peer(id spiffeid.ID, answer func([]byte) ([]byte, error)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.peers[id] = answer
}

func openStore(t testing.TB, path string) *store.Store {
	t.Helper()
	st, err := store.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	return st
}

// has is a peer that holds contents whole.
func has(contents ...[]byte) func([]byte) ([]byte, error) {
	return func(b []byte) ([]byte, error) {
		q, err := parseQuestion(b)
		for _, whole := range contents {
			if err == nil && bundle.ChunksDigest(bundle.ChunkList(whole)) == q.Digest {
				return cut(whole, int(q.Part)), nil
			}
		}
		return nil, err
	}
}

// run runs a desk for so long.
func (n *node) run(t *testing.T, d time.Duration) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	return n.Run(ctx)
}

// A record that comes is fetched from whoever has it, taken once, and given on by who took it.
func TestARecordComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, openStore(t, filepath.Join(t.TempDir(), "db")))
		c := content(t, "a")
		raw := sign(t, 7, c, time.Now())
		n.peer(n1, has())
		n.peer(n2, has(c))
		for range 3 {
			if err := n.Offer(raw, time.Now()); err != nil {
				t.Fatal(err)
			}
		}
		if err := n.run(t, time.Second); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(n.taken, []uint64{7}) || len(n.Waiting()) != 0 || len(n.Refused()) != 0 {
			t.Fatalf("took %v, waits for %v, refused %v", n.taken, n.Waiting(), n.Refused())
		}
		for part := range 6 {
			got, err := n.Answer(question{bundle.ChunksDigest(bundle.ChunkList(c)), uint32(part)}.encode())
			if err != nil || !bytes.Equal(got, cut(c, part)) {
				t.Errorf("part %d: %d bytes, %v", part, len(got), err)
			}
		}
		if left, err := n.parts.digests(); err != nil || len(left) != 0 {
			t.Errorf("%d contents are still in parts, %v", len(left), err)
		}
		if err := n.Offer(raw, time.Now()); err != nil || len(n.Waiting()) != 0 {
			t.Errorf("offered again: %v, waits for %v", err, n.Waiting())
		}
	})
}

// While nobody has the content the desk asks again, ever more rarely, and at once when a peer
// comes.
func TestNobodyHasIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, openStore(t, filepath.Join(t.TempDir(), "db")))
		c := content(t, "a")
		n.peer(n1, has())
		if err := n.Offer(sign(t, 1, c, time.Now()), time.Now()); err != nil {
			t.Fatal(err)
		}
		if err := n.run(t, time.Minute); err != nil {
			t.Fatal(err)
		}
		if asked := n.asked[n1]; asked < 8 || asked > 16 {
			t.Errorf("asked %d times in a minute", asked)
		}
		n.peer(n2, has(c))
		n.Kick()
		if err := n.run(t, time.Millisecond); err != nil || len(n.taken) != 1 {
			t.Errorf("took %v, %v", n.taken, err)
		}
	})
}

// Who answers with something else is asked no more in this attempt, and spoils nothing.
func TestALiarSpoilsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, openStore(t, filepath.Join(t.TempDir(), "db")))
		c := content(t, "a")
		honest := has(c)
		n.peer(n1, func(q []byte) ([]byte, error) {
			b, err := honest(q)
			if asked, _ := parseQuestion(q); asked.Part > 0 {
				b = bytes.Clone(b)
				b[0] ^= 1
			}
			return b, err
		})
		n.peer(n2, honest)
		if err := n.Offer(sign(t, 1, c, time.Now()), time.Now()); err != nil {
			t.Fatal(err)
		}
		if err := n.run(t, time.Second); err != nil || len(n.taken) != 1 {
			t.Fatalf("took %v, %v", n.taken, err)
		}
		if n.asked[n1] > 1+openQuestions {
			t.Errorf("the liar was asked %d times", n.asked[n1])
		}
	})
}

// After a cut and a restart only what is missing is asked for.
func TestFetchingGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "db")
		st := openStore(t, path)
		n := newNode(t, st)
		c := content(t, "a")
		raw := sign(t, 1, c, time.Now())
		honest := has(c)
		answered := 0
		n.peer(n1, func(q []byte) ([]byte, error) {
			n.mu.Lock()
			defer n.mu.Unlock()
			if answered++; answered > 3 {
				return nil, errLost
			}
			return honest(q)
		})
		if err := n.Offer(raw, time.Now()); err != nil {
			t.Fatal(err)
		}
		if err := n.run(t, 100*time.Millisecond); err != nil || len(n.taken) != 0 {
			t.Fatalf("took %v, %v", n.taken, err)
		}
		st.Close()

		again := newNode(t, openStore(t, path))
		again.peer(n2, honest)
		if err := again.Offer(raw, time.Now()); err != nil {
			t.Fatal(err)
		}
		if err := again.run(t, time.Second); err != nil || len(again.taken) != 1 {
			t.Fatalf("took %v, %v", again.taken, err)
		}
		if again.asked[n2] != 3 {
			t.Errorf("asked for %d parts after the restart, want the 3 of 6 that were missing", again.asked[n2])
		}
	})
}

// A record of later waits for its time; one that is refused is not fetched again; a newer one
// takes its place.
func TestLaterAndRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, openStore(t, filepath.Join(t.TempDir(), "db")))
		a, b := content(t, "a"), content(t, "b")
		n.peer(n1, has(a, b))
		n.wrong = errWrong
		bad := sign(t, 1, a, time.Now())
		if err := n.Offer(bad, time.Now()); err != nil {
			t.Fatal(err)
		}
		if err := n.run(t, time.Second); err != nil {
			t.Fatal(err)
		}
		refused := n.Refused()
		if len(refused) != 1 || refused[0].Record.Version != 1 || !errors.Is(refused[0].Err, errWrong) {
			t.Fatalf("refused %v", refused)
		}
		if err := n.Offer(bad, time.Now()); err != nil || len(n.Waiting()) != 0 {
			t.Errorf("offered again: %v, waits for %v", err, n.Waiting())
		}

		n.wrong = nil
		if err := n.Offer(sign(t, 2, b, time.Now().Add(10*time.Minute)), time.Now()); err != nil {
			t.Fatal(err)
		}
		n.Kick()
		if err := n.run(t, 9*time.Minute); err != nil || len(n.taken) != 0 || len(n.Waiting()) != 1 {
			t.Fatalf("before its time: took %v, waits for %v, %v", n.taken, n.Waiting(), err)
		}
		if err := n.run(t, 2*time.Minute); err != nil || !slices.Equal(n.taken, []uint64{2}) || len(n.Refused()) != 0 {
			t.Errorf("at its time: took %v, refused %v, %v", n.taken, n.Refused(), err)
		}
	})
}

// What does not verify, jumps or is old is neither worked on nor remembered.
func TestOfferRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, openStore(t, filepath.Join(t.TempDir(), "db")))
		c := content(t, "a")
		n.peer(n1, has(c))
		if err := n.Offer(sign(t, 5, c, time.Now()), time.Now()); err != nil {
			t.Fatal(err)
		}
		if err := n.run(t, time.Second); err != nil {
			t.Fatal(err)
		}
		stranger := newKey()
		stolen, err := bundle.Sign(stranger, bundle.Record{
			Level: policy.Global, Scope: bundle.ScopeMesh, Version: 6, Mode: bundle.Enforce, StaleMode: bundle.StaleContinue,
			NotBefore: time.Now().Unix(), NotAfter: time.Now().Unix() + 60, Author: "spiffe://east.dev.example/operator",
		}, c)
		if err != nil {
			t.Fatal(err)
		}
		for _, tt := range []struct {
			name string
			raw  []byte
			err  error
		}{
			{"another key", stolen, bundle.ErrSignature},
			{"a jump", sign(t, 5+bundle.MaxJump+1, c, time.Now()), bundle.ErrJump},
			{"an old version", sign(t, 4, c, time.Now()), bundle.ErrRollback},
			{"the same version", higher(t, n), bundle.ErrConflict},
			{"expired", sign(t, 6, c, time.Now().Add(-2*time.Hour)), bundle.ErrExpired},
			{"rubbish", []byte("rubbish"), bundle.ErrMalformed},
		} {
			if err := n.Offer(tt.raw, time.Now()); !errors.Is(err, tt.err) {
				t.Errorf("%s: %v, want %v", tt.name, err, tt.err)
			}
		}
		if newest := n.Newest(); len(n.Waiting()) != 0 || len(newest) != 1 || newest[0].Record.Version != 5 {
			t.Errorf("waits for %v, the newest are %v", n.Waiting(), newest)
		}
	})
}

// Of a process that ends at any durable step the disk holds the old policy or the new one.
func TestOldOrNew(t *testing.T) {
	old, c := content(t, "old"), content(t, "new")
	steps := 0
	for _, fault := range []store.Fault{store.FaultBefore, store.FaultAfter} {
		for at := 2; ; at++ { // the first commit keeps the old policy
			whole := false
			steps = at
			synctest.Test(t, func(t *testing.T) {
				path := filepath.Join(t.TempDir(), "db")
				broken := false
				st, err := store.OpenFaulty(path, func(op int) store.Fault {
					if op == at {
						broken = true
						return fault
					}
					return store.NoFault
				})
				if err != nil {
					t.Fatal(err)
				}
				n := newNode(t, st)
				first, second := sign(t, 1, old, time.Now()), sign(t, 2, c, time.Now())
				v, err := bundle.Verify(first, old, globals, time.Now())
				if err != nil {
					t.Fatal(err)
				}
				if err := n.book.Keep(v, false, time.Now()); err != nil {
					t.Fatal(err)
				}
				n.peer(n1, has(c))
				if err := n.Offer(second, time.Now()); err != nil {
					t.Fatal(err)
				}
				err = n.run(t, time.Second)
				if (err != nil) != broken {
					t.Fatalf("commit %d broken: %v; Run: %v", at, broken, err)
				}
				st.Close()
				again := newNode(t, openStore(t, path))
				held, err := again.book.Held(policy.Global, bundle.ScopeMesh, globals)
				if err != nil || len(held) == 0 || len(n.taken) > 0 && held[0].Record.Version != 2 {
					t.Fatalf("commit %d: %d held, %v", at, len(held), err)
				}
				want := map[uint64][]byte{1: old, 2: c}[held[0].Record.Version]
				if !bytes.Equal(held[0].Packed(), want) {
					t.Errorf("commit %d: version %d has another content", at, held[0].Record.Version)
				}
				again.peer(n2, has(c))
				if err := again.Offer(second, time.Now()); err != nil {
					t.Fatal(err)
				}
				if err := again.run(t, time.Second); err != nil {
					t.Fatal(err)
				}
				if held, err := again.book.Held(policy.Global, bundle.ScopeMesh, globals); err != nil || held[0].Record.Version != 2 {
					t.Errorf("commit %d: not the new policy after the restart, %v", at, err)
				}
				whole = !broken
			})
			if whole || t.Failed() {
				break
			}
		}
	}
	if steps < 5 { // six parts, some of which share a commit; the book; the parts forgotten
		t.Errorf("only %d commits were broken", steps)
	}
}

func FuzzAnswer(f *testing.F) {
	f.Add(question{[32]byte{1}, 3}.encode())
	f.Add(question{Digest: [32]byte{1}}.encode())
	f.Add([]byte("rubbish"))
	n := newNode(f, openStore(f, filepath.Join(f.TempDir(), "db")))
	f.Fuzz(func(t *testing.T, b []byte) {
		q, err := parseQuestion(b)
		if err == nil && !bytes.Equal(q.encode(), b) {
			t.Fatal("a question with two spellings")
		}
		if answer, err := n.Answer(b); err == nil && len(answer) != 0 {
			t.Fatalf("%d bytes of nothing", len(answer))
		}
	})
}

// In whatever order they come, what a staged record has overtaken is taken as well, the newest of it;
// also when nobody has the content of the staged one.
func TestWhatAStagedRecordHasOvertaken(t *testing.T) {
	for name, order := range map[string][]uint64{"in order": {35, 36, 37}, "backwards": {37, 36, 35}, "mixed": {36, 37, 35}, "a last one without a plan": {36, 37, 38}} {
		synctest.Test(t, func(t *testing.T) {
			n := newNode(t, openStore(t, filepath.Join(t.TempDir(), "db")))
			staged := map[[32]byte]bool{}
			n.book.Stage(func() map[[32]byte]bool { return staged })
			whole := content(t, "held by a peer")
			n.peer(n1, has(whole))
			for _, version := range order {
				c, plan := whole, (*rollout.Plan)(nil)
				if version == 37 {
					c, plan = content(t, "held by nobody"), &rollout.Plan{Soak: 1, Rings: []rollout.Ring{{Name: "a"}}}
				}
				if err := n.Offer(signed(t, version, c, plan), time.Now()); err != nil {
					t.Fatal(name, err)
				}
			}
			if err := n.run(t, time.Minute); err != nil {
				t.Fatal(name, err)
			}
			want, waits := []uint64{36}, 1
			if slices.Contains(order, 38) {
				want, waits = []uint64{38}, 0
			}
			if !slices.Equal(n.taken, want) || len(n.Waiting()) != waits || len(n.Refused()) != 0 {
				t.Errorf("%s: took %v, waits for %v, refused %v", name, n.taken, n.Waiting(), n.Refused())
			}
		})
	}
}

// higher signs another record of the version that a node holds, which gives way to it.
func higher(t *testing.T, n *node) []byte {
	t.Helper()
	held, err := n.book.List()
	if err != nil {
		t.Fatal(err)
	}
	for {
		raw := sign(t, held[0].Record.Version, content(t, "another"), time.Now())
		if v, err := bundle.VerifyRecord(raw, globals, time.Now()); err != nil {
			t.Fatal(err)
		} else if bytes.Compare(v.Name[:], held[0].Name[:]) > 0 {
			return raw
		}
	}
}

// Whatever order two records of one version come in, and whatever comes between, every node takes the
// same, and knows of the other; the next version ends it.
func TestTwoOfOneVersion(t *testing.T) {
	contents := [][]byte{content(t, "a"), content(t, "b"), content(t, "c")}
	synctest.Test(t, func(t *testing.T) {
		var three [][]byte
		var names [][32]byte
		for _, c := range contents {
			raw := sign(t, 5, c, time.Now())
			v, err := bundle.VerifyRecord(raw, globals, time.Now())
			if err != nil {
				t.Fatal(err)
			}
			three, names = append(three, raw), append(names, v.Name)
		}
		want := slices.MinFunc(names, func(a, b [32]byte) int { return bytes.Compare(a[:], b[:]) })
		for _, order := range [][]int{{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}} {
			for between := range 4 { // after which of them the desk works
				n := newNode(t, openStore(t, filepath.Join(t.TempDir(), "db")))
				n.peer(n1, has(contents...))
				for i, which := range order {
					if err := n.Offer(three[which], time.Now()); err != nil && !errors.Is(err, bundle.ErrConflict) {
						t.Fatal(err)
					}
					if i == between || i == 2 {
						if err := n.run(t, time.Second); err != nil {
							t.Fatal(err)
						}
					}
				}
				held, err := n.book.List()
				gave, err2 := n.book.Conflicts()
				if err != nil || err2 != nil || len(held) != 1 || held[0].Name != want || len(gave) != 2 || len(n.Waiting())+len(n.Refused()) != 0 {
					t.Errorf("order %v, worked after %d: holds %x, %d gave way, waits for %v, refused %v, %v, %v", order, between, held[0].Name[:4], len(gave), n.Waiting(), n.Refused(), err, err2)
				}
				d := Desired{}
				for _, n := range n.Newest() {
					d.Want(&n.Record, n.Name, time.Now())
				}
				if d[mesh].Name != [8]byte(want[:]) {
					t.Errorf("order %v: %x is desired", order, d[mesh].Name)
				}
				if err := n.Offer(sign(t, 6, contents[0], time.Now()), time.Now()); err != nil {
					t.Fatal(err)
				}
				if err := n.run(t, time.Second); err != nil {
					t.Fatal(err)
				}
				if gave, err := n.book.Conflicts(); err != nil || len(gave) != 0 {
					t.Errorf("%d gave way after the next version, %v", len(gave), err)
				}
			}
		}
	})
}

// A hostile peer that offers only an old record, validly signed, gets a node that joins late nowhere; the
// node says so until the newer one comes.
func TestOldRecordOfAHostilePeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, openStore(t, filepath.Join(t.TempDir(), "db")))
		c := content(t, "a")
		n.peer(n1, has(c))
		newest := sign(t, 7, c, time.Now())
		v, err := bundle.VerifyRecord(newest, globals, time.Now())
		if err == nil {
			err = n.book.Raise(v) // as the issuer showed it
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := n.Offer(sign(t, 3, c, time.Now()), time.Now()); !errors.Is(err, bundle.ErrFloor) {
			t.Errorf("offered: %v", err)
		}
		if err := n.run(t, time.Minute); err != nil || len(n.taken) != 0 || len(n.Refused()) != 1 {
			t.Errorf("took %v, refused %v, %v", n.taken, n.Refused(), err)
		}
		if err := n.Offer(newest, time.Now()); err != nil {
			t.Fatal(err)
		}
		if err := n.run(t, time.Minute); err != nil || !slices.Equal(n.taken, []uint64{7}) || len(n.Refused()) != 0 {
			t.Errorf("took %v, refused %v, %v", n.taken, n.Refused(), err)
		}
	})
}
