package issuing

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/identity/issuer"
)

var bannedAgent = spiffeid.RequireFromPath(tdEast, "/spire/agent/bailiwick_tpm/00")

func says(b *Branch, n notice) error {
	_, err := b.exchange(context.Background(), func() (notice, error) { return n, nil }, func(map[ban]bool) error { return nil })
	return err
}

func keyOf(t *testing.T, curve elliptic.Curve, kid string, life time.Duration) keyWire {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return keyWire{ID: kid, PKIX: der, NotAfter: time.Now().Add(life).Unix()}
}

// evictionsOf are evictions of bannedAgent with these numbers.
func evictionsOf(numbers ...uint64) (out []evictionWire) {
	b := banOf(bannedAgent)
	for _, n := range numbers {
		out = append(out, evictionWire{b[:], n})
	}
	return out
}

// bansOf is n bans, bannedAgent's last.
func bansOf(n int) (out [][]byte) {
	for i := range n - 1 {
		out = append(out, binary.BigEndian.AppendUint64(make([]byte, 8), uint64(i)))
	}
	b := banOf(bannedAgent)
	return append(out, b[:])
}

func mustSay(t *testing.T, b *Branch, kid string, life time.Duration, bans ...[]byte) {
	t.Helper()
	if err := says(b, notice{Keys: []keyWire{keyOf(t, elliptic.P256(), kid, life)}, Banned: bans}); err != nil {
		t.Fatal(err)
	}
}

// hears checks of whom an issuer has keys, and whether it serves bannedAgent.
func hears(t *testing.T, what string, b *Branch, banned bool, kids ...string) {
	t.Helper()
	keys := b.OtherKeys()
	ok := len(keys) == len(kids)
	for i := range kids {
		ok = ok && keys[i].ID == kids[i] && keys[i].Key != nil
	}
	if !ok || errors.Is(b.bans(bannedAgent), ErrBannedElsewhere) != banned || b.bans(nodeN3) != nil {
		t.Errorf("%s: keys %+v, banned %v; want %v, %v", what, keys, b.bans(bannedAgent), kids, banned)
	}
}

// Issuers hear each other's JWT keys and bans, and remember the last word.
func TestIssuersHearOfEachOther(t *testing.T) {
	o, here, there := testOffice(t, openStore(t, filepath.Join(t.TempDir(), "a.db")))
	mustSay(t, there, "two", time.Hour, bansOf(1)...)
	mustSay(t, here, "one", time.Hour)
	hears(t, "at the authority", here, true, "two")
	mustSay(t, there, "two", -time.Second) // expired, and the ban lifted
	mustSay(t, here, "one", time.Hour)
	hears(t, "elsewhere", there, false, "one")
	hears(t, "expired", here, false)
	again := remote(t, &Office{td: tdEast, self: nodeN1, issuers: o.issuers, store: o.store, log: o.log}, nodeN2) // the authority's node restarted
	mustSay(t, again, "two", time.Hour)
	hears(t, "the authority after a restart", again, false, "one")
	there.dial = func(context.Context) (Stream, error) { return nil, errNoAuthority }
	if err := says(there, notice{}); !errors.Is(err, issuer.ErrAuthorityAway) {
		t.Error(err)
	}
	hears(t, "the authority is away", there, false, "one")
}

// What an issuer heard holds after its restart too, before the authority answers.
func TestHeardIsRemembered(t *testing.T) {
	_, here, there := testOffice(t, openStore(t, filepath.Join(t.TempDir(), "a.db")))
	mustSay(t, here, "one", time.Hour, bansOf(1)...)
	mustSay(t, there, "two", time.Hour)
	restart := func() *Branch {
		t.Helper()
		b, err := OpenBranch(nodeN2, nil, func(context.Context) (Stream, error) { return nil, errNoAuthority }, there.store, there.log)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	hears(t, "after a restart", restart(), true, "one")
	mustSay(t, here, "one", time.Hour)
	mustSay(t, there, "two", time.Hour) // the ban was lifted
	hears(t, "after another", restart(), false, "one")
}

// A node that is no issuer any more is forgotten with all it said, at once and on disk.
func TestRemovedIssuerIsForgotten(t *testing.T) {
	o, here, there := testOffice(t, openStore(t, filepath.Join(t.TempDir(), "a.db")))
	mustSay(t, there, "planted", time.Hour, bansOf(1)...)
	mustSay(t, here, "one", time.Hour)
	hears(t, "before", here, true, "planted")
	o.issuers = nil
	mustSay(t, here, "one", time.Hour)
	hears(t, "removed", here, false)
	o.issuers = []spiffeid.ID{nodeN2} // a notice of before does not come back with it
	mustSay(t, here, "one", time.Hour)
	hears(t, "listed again", here, false)
	mustSay(t, there, "two", time.Hour)
	mustSay(t, here, "one", time.Hour)
	hears(t, "speaking again", here, false, "two")
}

// No issuer's key is one for longer than an issuer's own, whatever it says of it.
func TestSharedKeysExpire(t *testing.T) {
	now := time.Now()
	far := keyOf(t, elliptic.P256(), "far", 200*365*24*time.Hour)
	n, err := notice{Keys: []keyWire{far}}.taken(now)
	if err != nil || n.Keys[0].NotAfter != now.Add(issuer.JWTKeyLifetime).Unix() || far.NotAfter <= n.Keys[0].NotAfter {
		t.Errorf("%+v, %v", n, err)
	}
	synctest.Test(t, func(t *testing.T) {
		k, err := keyOf(t, elliptic.P256(), "near", time.Hour).authority()
		if err != nil {
			t.Fatal(err)
		}
		b := &Branch{}
		b.others.Store(&colleagues{keys: []issuer.Authority{k}})
		hears(t, "valid", b, false, "near")
		time.Sleep(time.Hour)
		hears(t, "expired, and nobody said so", b, false)
	})
}

// Every issuer's bans reach every other, however many they are, and whatever another
// issuer says.
func TestBansReachAll(t *testing.T) {
	o, here, there := testOffice(t, openStore(t, filepath.Join(t.TempDir(), "a.db")))
	o.issuers = append(o.issuers, nodeN3)
	third := remote(t, o, nodeN3)
	if err := says(there, notice{Keys: []keyWire{{ID: "x", PKIX: []byte("junk"), NotAfter: time.Now().Add(time.Hour).Unix()}}}); err == nil {
		t.Error("no key, and nobody says so")
	}
	mustSay(t, here, "one", time.Hour, bansOf(1)...)
	mustSay(t, third, "three", time.Hour)
	hears(t, "beside junk", third, true, "one")

	bans := bansOf(maxSharedBans)
	mustSay(t, here, "one", time.Hour, bans[:maxSharedBans-1]...)
	mustSay(t, there, "two", time.Hour, bans...)
	mustSay(t, third, "three", time.Hour)
	hears(t, "as many as there can be, of two", third, true, "one", "two")
	if got := len(third.others.Load().banned); got != maxSharedBans {
		t.Errorf("%d bans were heard", got)
	}
}

// A part that cannot be read, of an older version or a broken authority, takes nothing
// else with it.
func TestUnreadableNoticeIsSkipped(t *testing.T) {
	good := keyOf(t, elliptic.P256(), "good", time.Hour)
	c := newColleagues(map[string][]byte{
		"a": encode(t, map[int][]string{2: {bannedAgent.String()}}),
		"b": encode(t, notice{Keys: []keyWire{{ID: "junk", PKIX: []byte("junk"), NotAfter: good.NotAfter}, good}, Banned: append(bansOf(1), []byte("short"))}),
	})
	b := &Branch{}
	b.others.Store(c)
	hears(t, "what is readable", b, true, "good")
}

// An authority that never ends its list is not listened to for ever.
func TestEndlessListOfIssuers(t *testing.T) {
	answer := encode(t, reply{Notice: &notice{}, Of: nodeN3.String()})
	b := &Branch{self: nodeN2, dial: func(context.Context) (Stream, error) {
		near, far := pair(t)
		_, err := far.Write(answer)
		return near, errors.Join(err, far.CloseWrite())
	}}
	if err := says(b, notice{}); err == nil || b.others.Load() != nil {
		t.Errorf("the same issuer again and again: %v", err)
	}
}

// Every eviction is followed once at every other issuer, also if that failed at first, and
// across a restart.
func TestEvictionsAreFollowedOnce(t *testing.T) {
	_, here, there := testOffice(t, openStore(t, filepath.Join(t.TempDir(), "a.db")))
	say := func(n notice) {
		t.Helper()
		if err := says(there, n); err != nil {
			t.Fatal(err)
		}
	}
	full := errors.New("the disk is full")
	follow := func(b *Branch, fails error) (times int) {
		t.Helper()
		_, err := b.exchange(t.Context(), func() (notice, error) { return notice{}, nil }, func(agents map[ban]bool) error {
			if len(agents) != 1 || !agents[banOf(bannedAgent)] {
				t.Errorf("forgets %v", agents)
			}
			times++
			return fails
		})
		if !errors.Is(err, fails) {
			t.Error(err)
		}
		return times
	}
	say(notice{Evicted: evictionsOf(7)})
	if follow(here, full) != 1 || here.evicted(bannedAgent) {
		t.Error("what could not be done here counts as done")
	}
	if n := follow(here, nil); n != 1 || !here.evicted(bannedAgent) || here.evicted(nodeN3) {
		t.Errorf("followed %d times", n)
	}
	again, err := OpenBranch(nodeN1, here.office, nil, here.store, here.log)
	if err != nil {
		t.Fatal(err)
	}
	if n := follow(again, nil); n != 0 || !again.evicted(bannedAgent) {
		t.Errorf("followed %d times more after a restart", n)
	}
	say(notice{Evicted: evictionsOf(7), Banned: bansOf(1)})
	if n := follow(again, nil); n != 0 {
		t.Errorf("another word of that issuer's, and it is followed %d times more", n)
	}
	say(notice{Evicted: evictionsOf(9)})
	if n := follow(again, nil); n != 1 {
		t.Errorf("evicted again, and followed %d times", n)
	}
	for _, bad := range []notice{{Evicted: []evictionWire{{[]byte("short"), 10}}}, {Evicted: evictionsOf(make([]uint64, maxSharedEvictions+1)...)}} {
		if err := says(there, bad); err == nil {
			t.Errorf("%d evictions were taken", len(bad.Evicted))
		}
	}
}

// half is one direction of a stream.
type half struct {
	from *io.PipeReader
	*io.PipeWriter
}

func (h half) Read(b []byte) (int, error) { return h.from.Read(b) }
func (h half) CloseWrite() error          { return h.PipeWriter.Close() }

func (h half) SetDeadline(at time.Time) error {
	if time.Now().After(at) {
		return h.from.CloseWithError(os.ErrDeadlineExceeded)
	}
	return nil
}

// TestNewsComesAtOnce: what one issuer says is heard by the others within a moment, and
// nobody asks without end while there is no news.
func TestNewsComesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, here, there := testOffice(t, openStore(t, filepath.Join(t.TempDir(), "a.db")))
		o.issuers = append(o.issuers, nodeN3)
		third := remote(t, o, nodeN3)
		var running sync.WaitGroup
		var asked atomic.Int64
		for b, self := range map[*Branch]spiffeid.ID{there: nodeN2, third: nodeN3} {
			b.dial = func(context.Context) (Stream, error) {
				asked.Add(1)
				up, toOffice := io.Pipe()
				down, toIssuer := io.Pipe()
				running.Go(func() { o.Serve(self, half{up, toIssuer}) })
				return half{down, toOffice}, nil
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		var said [3]atomic.Pointer[notice]
		for i, b := range []*Branch{here, there, third} {
			b.barred = make(chan struct{}, 1)
			said[i].Store(&notice{})
			running.Go(func() {
				if err := b.run(ctx, func() (notice, error) { return *said[i].Load(), nil }, func(map[ban]bool) error { return nil }); err != nil {
					t.Error(err)
				}
			})
		}
		time.Sleep(time.Minute)
		if n := asked.Load(); n > 100 {
			t.Errorf("two issuers asked %d times in a minute without news", n)
		}
		for i, by := range []*Branch{here, there} {
			for _, bans := range [][][]byte{bansOf(1), nil} {
				time.Sleep(1234 * time.Millisecond)
				said[i].Store(&notice{Banned: bans})
				by.Barred()
				time.Sleep(2 * exchangeLeast)
				for _, b := range []*Branch{here, there, third} {
					if got := b.bans(bannedAgent) != nil; b != by && got != (bans != nil) {
						t.Errorf("issuer %d banned %v, and another serves it: %v", i, bans != nil, !got)
					}
				}
			}
		}
		cancel()
		running.Wait()
	})
}
