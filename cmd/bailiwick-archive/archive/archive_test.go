package archive

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/attest/trail"
)

var (
	testNode = spiffeid.RequireFromString("spiffe://east.example.org/node/edge-7")
	year     = Config{Retain: 365 * 24 * time.Hour, Decisions: true}
)

const origin = "east.example.org/trail/edge-7/1"

// soon is a lock that the tests outlive.
func soon() Lock { return Lock{Until: time.Now().Add(time.Hour).Truncate(time.Second)} }

// site is a node's state folder with a trail that grows.
type site struct {
	*testing.T
	state string
	store *store.Store
	trail *trail.Trail
}

func newSite(t *testing.T) *site {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return siteOf(t, key)
}

func siteOf(t *testing.T, key *ecdsa.PrivateKey) *site {
	t.Helper()
	s := &site{T: t, state: t.TempDir()}
	var err error
	if s.store, err = store.Open(filepath.Join(s.state, "store")); err != nil {
		t.Fatal(err)
	}
	if s.trail, err = trail.Open(trail.Config{Dir: filepath.Join(s.state, "trail"), Node: testNode, Epoch: 1, Key: key, Store: s.store, Every: time.Hour}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.trail.Close(); _ = s.store.Close() })
	return s
}

// grow adds leaves, and what more their transaction does.
func (s *site) grow(n int, more ...func(*store.Tx) error) {
	s.Helper()
	if err := s.store.Update(func(tx *store.Tx) error {
		for i := range n {
			if err := trail.Append(tx, trail.StateOut, map[string]int{"n": i}); err != nil {
				return err
			}
		}
		for _, f := range more {
			if err := f(tx); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		s.Fatal(err)
	}
	if err := s.trail.Flush(s.Context()); err != nil {
		s.Fatal(err)
	}
}

// push archives, and returns what became of the one trail.
func (s *site) push(b *Bucket, cfg Config) Pushed {
	s.Helper()
	done, err := Push(s.Context(), b, s.state, cfg)
	if err != nil || len(done) != 1 {
		s.Fatalf("%v, %v", done, err)
	}
	return done[0]
}

// wantPushed is push for what must succeed.
func (s *site) wantPushed(b *Bucket, cfg Config) Pushed {
	s.Helper()
	p := s.push(b, cfg)
	if p.Err != nil || p.Origin != origin || p.Size != s.trail.Head().Size {
		s.Fatalf("%+v, the head is of %d", p, s.trail.Head().Size)
	}
	return p
}

// fetch brings the trail back and verifies it.
func fetch(t *testing.T, b *Bucket) (Fetched, trail.Report) {
	t.Helper()
	got, err := Fetch(t.Context(), b, testNode, t.TempDir())
	if err != nil || len(got) != 1 {
		t.Fatalf("%v, %v", got, err)
	}
	r, err := trail.Verify(t.Context(), got[0].Dir, trail.Options{Node: testNode})
	if err != nil {
		t.Fatal(err)
	}
	return got[0], r
}

func wantFetched(t *testing.T, b *Bucket, size uint64) Fetched {
	t.Helper()
	f, r := fetch(t, b)
	if !r.Good() || r.Size != size || f.Size != size || f.Absent+f.Unlocked != 0 {
		t.Fatalf("fetched %+v of %d leaves: %v, %v", f, size, r.Integrity, r.Completeness)
	}
	return f
}

// versions lists every version of every object, delete markers too.
func versions(t *testing.T, b *Bucket, under string) (out []types.ObjectVersion) {
	t.Helper()
	p := s3.NewListObjectVersionsPaginator(one.client, &s3.ListObjectVersionsInput{Bucket: &b.name, Prefix: aws.String(b.prefix + under)})
	for p.HasMorePages() {
		page, err := p.NextPage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, page.Versions...)
	}
	return out
}

// What was archived comes back as it was; a repetition puts nothing, and growth only what is new.
func TestPushAndFetch(t *testing.T) {
	s, b := newSite(t), opened(t, "round")
	s.grow(300)
	if p := s.wantPushed(b, year); p.Before != 0 || p.Objects != 5 {
		t.Errorf("%+v: two bundles, three tiles", p)
	}
	wantFetched(t, b, 302)
	before := versions(t, b, "")
	if p := s.wantPushed(b, year); p.Before != 302 || p.Objects != 0 {
		t.Errorf("again: %+v", p)
	}
	if again := versions(t, b, ""); len(again) != len(before) {
		t.Errorf("%d objects, and after a repetition %d", len(before), len(again))
	}
	for _, n := range []int{1, 209, 700} {
		s.grow(n)
		s.wantPushed(b, year)
		wantFetched(t, b, s.trail.Head().Size)
	}
	// A reader of tile logs finds what it expects.
	got, err := one.client.GetObject(t.Context(), &s3.GetObjectInput{Bucket: &b.name, Key: aws.String("site/" + origin + "/checkpoint")})
	if err != nil {
		t.Fatal(err)
	}
	var raw bytes.Buffer
	if _, err := raw.ReadFrom(got.Body); err != nil || raw.String() != string(s.trail.Head().Raw) {
		t.Errorf("checkpoint %q, %v", raw.String(), err)
	}
	if _, err := Fetch(t.Context(), b, spiffeid.RequireFromString("spiffe://east.example.org/node/edge"), t.TempDir()); !errors.Is(err, ErrNotArchived) {
		t.Errorf("a node whose name begins like another's: %v", err)
	}
}

// Every object is in the lock that was asked for, so that its own writer cannot remove it.
func TestLock(t *testing.T) {
	s, b := newSite(t), opened(t, "lock")
	s.grow(300)
	s.wantPushed(b, year)
	until := time.Now().Add(year.Retain)
	all := versions(t, b, "")
	if len(all) < 7 {
		t.Fatalf("%d objects", len(all))
	}
	for _, v := range all {
		l, err := b.lock(t.Context(), version{strings.TrimPrefix(*v.Key, b.prefix), *v.VersionId})
		if err != nil || l.Hold || l.Until.Before(until) || l.Until.After(until.Add(25*time.Hour)) {
			t.Errorf("%s: %+v, %v", *v.Key, l, err)
		}
		bypass := true
		if _, err := one.client.DeleteObject(t.Context(), &s3.DeleteObjectInput{Bucket: &b.name, Key: v.Key, VersionId: v.VersionId, BypassGovernanceRetention: &bypass}); err == nil {
			t.Errorf("%s could be deleted", *v.Key)
		}
		if err := b.extend(t.Context(), version{strings.TrimPrefix(*v.Key, b.prefix), *v.VersionId}, time.Now().Add(time.Hour)); err == nil {
			t.Errorf("the lock of %s could be shortened", *v.Key)
		}
	}
	wantFetched(t, b, 302)
}

// Another version, or a delete marker, over an object hides nothing.
func TestOverwriteHidesNothing(t *testing.T) {
	s, b := newSite(t), opened(t, "over")
	s.grow(600)
	s.wantPushed(b, year)
	for i, v := range versions(t, b, "") {
		if i%2 == 0 {
			if _, err := one.client.PutObject(t.Context(), &s3.PutObjectInput{Bucket: &b.name, Key: v.Key, Body: strings.NewReader("another history")}); err != nil {
				t.Fatal(err)
			}
		} else if _, err := one.client.DeleteObject(t.Context(), &s3.DeleteObjectInput{Bucket: &b.name, Key: v.Key}); err != nil {
			t.Fatal(err)
		}
	}
	wantFetched(t, b, 602)
	var pages, whole []version
	for v, err := range b.oldest(t.Context(), "", 2) { // versions of one key on several pages
		if err != nil {
			t.Fatal(err)
		}
		pages = append(pages, v)
	}
	for v := range b.list(t.Context(), "") {
		whole = append(whole, v)
	}
	if !slices.Equal(pages, whole) {
		t.Errorf("by pages of two: %v, want %v", pages, whole)
	}
	s.grow(500)
	s.wantPushed(b, year)
	wantFetched(t, b, 1102)

	// Heads that nobody signed, or another trail's key, are passed over.
	other := newSite(t)
	other.grow(5000)
	for _, forged := range [][]byte{[]byte("no head"), other.trail.Head().Raw} {
		if _, err := b.write(t.Context(), origin+"/"+headKey(headsDir, 5002, sha256.Sum256(forged)), forged, soon()); err != nil {
			t.Fatal(err)
		}
	}
	wantFetched(t, b, 1102)
	s.grow(1)
	if p := s.wantPushed(b, year); p.Before != 1102 {
		t.Errorf("%+v", p)
	}
}

// What somebody put where an object of the trail belongs stops the trail, loudly, and is put under no head.
func TestForeignObject(t *testing.T) {
	s, b := newSite(t), opened(t, "foreign")
	s.grow(300)
	s.wantPushed(b, year)
	s.grow(300)
	if _, err := b.write(t.Context(), origin+"/tile/entries/001", []byte("first"), soon()); err != nil {
		t.Fatal(err)
	}
	if p := s.push(b, year); !errors.Is(p.Err, ErrForeign) || !strings.Contains(p.Err.Error(), "tile/entries/001") || p.Size != 302 {
		t.Errorf("%+v", p)
	}
	wantFetched(t, b, 302)
}

// Tampered with by whoever runs the storage, it shows.
func TestTamperedObject(t *testing.T) {
	s, b := newSite(t), opened(t, "tampered")
	s.grow(600)
	key := origin + "/tile/entries/001"
	whole, err := trail.OpenSnapshot(trail.EpochDir(filepath.Join(s.state, "trail"), 1))
	if err != nil {
		t.Fatal(err)
	}
	for f, err := range whole.Files(0) {
		if err != nil {
			t.Fatal(err)
		}
		if origin+"/"+f.Path == key {
			f.Data[700] ^= 1
		}
		if err := b.put(t.Context(), origin+"/"+f.Path, f.Data, soon()); err != nil {
			t.Fatal(err)
		}
	}
	head := whole.Head()
	if err := b.put(t.Context(), origin+"/"+headKey(headsDir, head.Size, sha256.Sum256(head.Raw)), head.Raw, soon()); err != nil {
		t.Fatal(err)
	}
	if _, r := fetch(t, b); r.Integrity.Good || r.Integrity.Leaf < 256 || r.Integrity.Leaf > 511 {
		t.Errorf("integrity %v at leaf %d", r.Integrity, r.Integrity.Leaf)
	}
}

// Ended at any of its requests, Push goes on where it was: nothing is under a head before it is whole.
func TestInterrupted(t *testing.T) {
	s, b := newSite(t), opened(t, "broken-off")
	s.grow(1000)
	tries := 0
	for ; tries < 100; tries++ {
		ctx, cancel := context.WithCancel(t.Context())
		left := 6 * (tries + 1)
		b.client = s3.NewFromConfig(testConfig(testSecret), func(o *s3.Options) {
			o.BaseEndpoint, o.UsePathStyle = &one.endpoint, true
			o.HTTPClient = countdown{o.HTTPClient, &left, cancel}
		})
		done, err := Push(ctx, b, s.state, year)
		cancel()
		b.client = one.client
		if err == nil && done[0].Err == nil {
			break
		}
		got, err := Fetch(t.Context(), b, testNode, t.TempDir())
		if err == nil && got[0].Absent > 0 {
			t.Fatalf("after %d requests a head is there, and %d objects under it are not", left, got[0].Absent)
		} else if err != nil && !errors.Is(err, ErrNotArchived) {
			t.Fatal(err)
		}
	}
	if tries < 3 || tries == 100 {
		t.Errorf("whole after %d interruptions", tries)
	}
	wantFetched(t, b, 1002)
	// Of a request that was given up while it was under way there may be two: the same twice.
	puts := map[string]string{}
	for _, v := range versions(t, b, origin+"/tile/") {
		if etag, twice := puts[*v.Key]; twice && etag != *v.ETag {
			t.Errorf("%s was put twice, with other bytes", *v.Key)
		}
		puts[*v.Key] = *v.ETag
	}
}

// Retention grows where an earlier try asked for less; a longer one stays.
func TestRetentionGrows(t *testing.T) {
	s, b := newSite(t), opened(t, "longer")
	s.grow(10)
	if err := b.put(t.Context(), origin+"/tile/0/000.p/12", tile(t, s), soon()); err != nil {
		t.Fatal(err)
	}
	s.wantPushed(b, year)
	v, err := b.first(t.Context(), origin+"/tile/0/000.p/12")
	if err != nil {
		t.Fatal(err)
	}
	if l, err := b.lock(t.Context(), v); err != nil || l.Until.Before(time.Now().Add(year.Retain)) {
		t.Errorf("%+v, %v", l, err)
	}
}

func tile(t *testing.T, s *site) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(s.state, "trail", "1", "tile", "0", "000.p", "12"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// A legal hold is on everything or on nothing, and stays as it is where nothing is said of it.
func TestLegalHold(t *testing.T) {
	s, b := newSite(t), opened(t, "hold")
	held := func() (on, off int) {
		for v, err := range b.list(t.Context(), "") {
			if err != nil {
				t.Fatal(err)
			}
			l, err := b.lock(t.Context(), v)
			if err != nil {
				t.Fatal(err)
			}
			if l.Hold {
				on++
			} else {
				off++
			}
		}
		return on, off
	}
	for i, step := range []struct {
		hold Hold
		want bool
	}{{Keep, false}, {On, true}, {Keep, true}, {Off, false}, {Keep, false}} {
		s.grow(300)
		cfg := year
		cfg.Hold = step.hold
		s.wantPushed(b, cfg)
		if on, off := held(); step.want && off > 0 || !step.want && on > 0 || on+off == 0 {
			t.Errorf("step %d, %q: %d held, %d not", i, step.hold, on, off)
		}
	}
}

// Another history under the same name and key does not go on in the archive; its head is kept as evidence.
func TestDiverges(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	b := opened(t, "diverges")
	first, second := forked(t, key, "a"), forked(t, key, "b")
	first.wantPushed(b, year)
	if p := second.push(b, year); !errors.Is(p.Err, ErrDiverges) {
		t.Errorf("%+v", p)
	}
	kept := 0
	for v, err := range b.list(t.Context(), origin+"/conflict/") {
		if err != nil {
			t.Fatal(err)
		}
		raw, err := b.get(t.Context(), v)
		if proof, ferr := trail.Fork(raw, first.trail.Head().Raw, first.trail.VerifierKey()); err != nil || ferr != nil || !proof {
			t.Errorf("the head kept proves no fork: %v, %v", err, ferr)
		}
		kept++
	}
	if kept != 1 {
		t.Errorf("%d heads are kept as conflicts", kept)
	}
	wantFetched(t, b, first.trail.Head().Size)
}

func forked(t *testing.T, key *ecdsa.PrivateKey, say string) *site {
	t.Helper()
	s := siteOf(t, key)
	s.grow(0, func(tx *store.Tx) error { return trail.Append(tx, trail.StateOut, map[string]string{"say": say}) })
	return s
}

// A node's whole disk is lost: the archive alone has the heads that witnesses cosigned, also from before it began to
// archive, and what says who they are.
func TestHeadsSeenEarlier(t *testing.T) {
	s, b := newSite(t), opened(t, "seen")
	var sizes []uint64
	dir := trail.EpochDir(filepath.Join(s.state, "trail"), 1)
	write := func(path string, data []byte) {
		t.Helper()
		path = filepath.Join(s.state, "trail", path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, data, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 6 {
		s.grow(100)
		head := s.trail.Head()
		sizes = append(sizes, head.Size)
		if i < 3 {
			write(filepath.Join("1", trail.SeenPath(head.Size)), head.Raw)
			continue
		}
		if err := s.trail.SetWitnessed(t.Context(), head.Raw); err != nil {
			t.Fatal(err)
		}
		s.wantPushed(b, year)
	}
	file := strings.Repeat("ab", 32)
	for _, folder := range besideDirs {
		write(filepath.Join(folder, file), []byte(folder))
	}
	s.wantPushed(b, year)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	f := wantFetched(t, b, sizes[5])
	for _, size := range sizes {
		if c, ok, err := trail.SeenAfter(f.Dir, size-1); err != nil || !ok || c.Size != size {
			t.Errorf("the head of %d leaves: %d, %t, %v", size, c.Size, ok, err)
		}
	}
	for _, folder := range besideDirs {
		if got, err := os.ReadFile(filepath.Join(f.Dir, "..", folder, file)); err != nil || string(got) != folder {
			t.Errorf("%s: %q, %v", folder, got, err)
		}
	}
}

// Segments that a leaf names, and rosters, go along; a segment that no leaf names does not yet.
func TestFilesBesideATrail(t *testing.T) {
	s, b := newSite(t), opened(t, "beside")
	sealed, open := []byte("a segment"), []byte("not under a leaf")
	name := func(n int) string { return fmt.Sprintf("%012d.ndjson.gz", n) }
	roster := strings.Repeat("ab", 32)
	for path, data := range map[string][]byte{"decisions/" + name(1): sealed, "decisions/" + name(2): open, "trail/rosters/" + roster: []byte("who"), "decisions/else": []byte("x")} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(s.state, path)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(s.state, path), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	digest := sha256.Sum256(sealed)
	s.grow(3, func(tx *store.Tx) error {
		return trail.Append(tx, trail.Segment, map[string]any{"segment": 1, "digest": digest[:], "bytes": len(sealed)})
	})
	s.wantPushed(b, Config{Retain: time.Hour})
	f := wantFetched(t, b, s.trail.Head().Size)
	if _, err := os.Stat(filepath.Join(f.Dir, "../../decisions", name(1))); err == nil {
		t.Error("a segment was archived, and none was to be")
	}
	s.wantPushed(b, year)
	f = wantFetched(t, b, s.trail.Head().Size)
	if got, err := os.ReadFile(filepath.Join(f.Dir, "../../decisions", name(1))); err != nil || string(got) != string(sealed) {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := os.ReadFile(filepath.Join(f.Dir, "../rosters", roster)); err != nil || string(got) != "who" {
		t.Errorf("%q, %v", got, err)
	}
	if all, err := os.ReadDir(filepath.Join(f.Dir, "../../decisions")); err != nil || len(all) != 1 {
		t.Errorf("%v, %v", all, err)
	}
}

// What a bucket must be, and who may use it.
func TestRefusedBuckets(t *testing.T) {
	bucket(t, "unlocked", false)
	bucket(t, "guarded", true)
	for _, tt := range []struct {
		name, secret, endpoint string
		want                   error
	}{
		{"unlocked", testSecret, one.endpoint, ErrUnlocked},
		{"guarded", "wrong", one.endpoint, ErrAccess},
		{"nowhere", testSecret, one.endpoint, ErrAccess},
		{"guarded", testSecret, "http://s3.example.org", ErrEndpoint},
		{"guarded", testSecret, "https://" + testAccess + ":" + testSecret + "@s3.example.org", ErrEndpoint},
		{"guarded", testSecret, "s3.example.org", ErrEndpoint},
	} {
		b, err := OpenBucket(t.Context(), testConfig(tt.secret), tt.endpoint, tt.name, "")
		if !errors.Is(err, tt.want) || b != nil {
			t.Errorf("%s at %s: %v, want %v", tt.name, tt.endpoint, err, tt.want)
		}
		if err != nil && (strings.Contains(err.Error(), testSecret) || strings.Contains(err.Error(), "wrong")) {
			t.Errorf("a secret is in %q", err)
		}
	}
	if _, err := Push(t.Context(), nil, t.TempDir(), year); !errors.Is(err, ErrNothing) {
		t.Errorf("a folder without a trail: %v", err)
	}
}

// Nothing that is printed of a bucket has the secret in it.
func TestSecretsCannotPrint(t *testing.T) {
	b := opened(t, "secret")
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
		if out := fmt.Sprintf(format, b) + fmt.Sprintf(format, *b); strings.Contains(out, testSecret) {
			t.Errorf("%s prints the secret", format)
		}
	}
}
