package app

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/attest/store"
	"github.com/bailiwick-mesh/bailiwick/attest/tpm"
	"github.com/bailiwick-mesh/bailiwick/attest/tpm/maker"
	"github.com/bailiwick-mesh/bailiwick/gossip/feed"
	"github.com/bailiwick-mesh/bailiwick/gossip/replica"
	"github.com/bailiwick-mesh/bailiwick/identity/endorse"
	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/authority"
)

// bench is one machine with a software TPM, and the authority that endorsed it.
type bench struct {
	node      spiffeid.ID
	device    *tpm.Device
	keys      *tpm.Keys
	log       []byte
	authority *authority.Authority
	key       *authority.Key
	word      []byte // endorsement
	seq       uint64
}

func newBench(t *testing.T) *bench {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	b := &bench{node: spiffeid.RequireFromString("spiffe://east.dev.example/node/east-n3"), seq: 5}
	ca, err := maker.NewCA(t.TempDir())
	must(err)
	dir, err := os.MkdirTemp("", "bw") // a unix socket's path is short
	must(err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	soft, err := ca.Manufacture(t.Context(), dir)
	must(err)
	t.Cleanup(func() { soft.Stop() })
	b.device, err = tpm.Open(soft.Path())
	must(err)
	t.Cleanup(func() { b.device.Close() })
	b.keys, err = tpm.OpenKeys(b.device, t.TempDir())
	must(err)
	b.log, err = os.ReadFile(soft.BootLog())
	must(err)
	st, err := store.Open(filepath.Join(t.TempDir(), "state.db"))
	must(err)
	t.Cleanup(func() { st.Close() })
	b.key, err = authority.OpenKey(t.TempDir())
	must(err)
	b.authority, err = authority.New(b.key, spiffeid.RequireFromString("spiffe://east.dev.example/node/east-n1"), authority.Regional, st, nil)
	must(err)

	feedKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	pkix, err := x509.MarshalPKIXPublicKey(feedKey.Public())
	must(err)
	spki, err := x509.MarshalPKIXPublicKey(b.keys.Node().Public())
	must(err)
	hello, err := b.keys.Hello(pkix, b.log)
	must(err)
	session, err := (&tpm.Verifier{Roots: ca.Roots()}).Begin(time.Now(), hello)
	must(err)
	exporter := make([]byte, 32)
	proof, err := b.keys.Prove(hello, session.Challenge(), exporter, spki, b.log)
	must(err)
	claims, err := session.Finish(time.Now(), proof, exporter, spki)
	must(err)
	b.word, err = endorse.Sign(b.key.Signer(), endorse.Endorsement{
		ID: b.node, EKHash: claims.EKHash, AK: claims.AKPub, Maker: claims.EKMaker, NodeKey: sha256.Sum256(spki), ResetCount: claims.ResetCount, Expires: time.Now().Add(time.Hour),
	})
	must(err)
	return b
}

// endorsedFor is an endorsement of the same AK beside another node key.
func (b *bench) endorsedFor(t *testing.T, node *ecdsa.PrivateKey) []byte {
	t.Helper()
	e, err := endorse.Verify(b.word, b.key.Public(), b.node.TrustDomain(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	pkix, err := x509.MarshalPKIXPublicKey(&node.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	e.NodeKey = sha256.Sum256(pkix)
	word, err := endorse.Sign(b.key.Signer(), e)
	if err != nil {
		t.Fatal(err)
	}
	return word
}

func (b *bench) beacon(t *testing.T) authority.Signed {
	t.Helper()
	s, err := b.authority.Beacon(time.Now(), "east", [32]byte{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// evidence is the node's next record of it.
func (b *bench) evidence(t *testing.T, beacon authority.Signed, change ...func(*evidenceRecord)) replica.Entry {
	t.Helper()
	r := evidenceRecord{Beacon: beacon.Raw, Epoch: 1, Seq: b.seq, Head: feed.ID{byte(b.seq)}}
	var err error
	if r.Evidence, err = b.keys.Quote(tpm.EpochQualifier(beacon.Digest, b.node.String(), r.Head), sha256.Sum256(b.log)); err != nil {
		t.Fatal(err)
	}
	for _, c := range change {
		c(&r)
	}
	value, err := statement.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	if err := attestationSchema(evidenceName, value); err != nil {
		t.Fatal(err)
	}
	b.seq++
	return replica.Entry{Value: value, Epoch: 1, Seq: b.seq, Record: feed.ID{byte(b.seq), 1}, HLC: feed.HLC(uint64(time.Now().UnixMilli()) << 16)}
}

func (b *bench) exhibit(e replica.Entry, before judgement) exhibit {
	return exhibit{
		node: b.node, entry: e, endorsement: b.word, authority: b.key.Public(), before: before,
		log: func(hash [32]byte) []byte {
			if hash == sha256.Sum256(b.log) {
				return b.log
			}
			return nil
		},
	}
}

func TestJudge(t *testing.T) {
	b, now := newBench(t), time.Now
	beacon := b.beacon(t)
	first := judge(now(), b.exhibit(b.evidence(t, beacon), judgement{}))
	if !first.proven || first.rule != "" || first.at.IsZero() || first.beacon.Number != 1 {
		t.Fatalf("honest evidence: %+v", first)
	}
	if in := first.question(&policy.Peer{}, now()); !in.Attest.EK.ChainOK || len(in.Attest.Boot.CommandLines) != 1 || len(in.Attest.PCRs) != 16 || in.Attest.Key != "resident" || in.Attest.Starts != 1 || in.Attest.Epoch != 1 {
		t.Errorf("question %+v", in.Attest)
	}
	second := judge(now(), b.exhibit(b.evidence(t, beacon), first))
	if !second.proven || second.earlier == nil || second.earlier.record != first.record || second.earlier.earlier != nil {
		t.Fatalf("second evidence: %+v", second)
	}
	stranger, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		rule   string
		record func(*evidenceRecord)
		change func(*exhibit)
	}{
		{rule: ruleEndorsement, change: func(x *exhibit) { x.endorsement = nil }},
		{rule: ruleEndorsement, change: func(x *exhibit) { x.authority = &stranger.PublicKey }},
		{rule: ruleEndorsement, change: func(x *exhibit) {
			x.node = spiffeid.RequireFromString("spiffe://east.dev.example/node/east-n2")
		}},
		{rule: ruleBeacon, record: func(r *evidenceRecord) { r.Beacon = r.Beacon[1:] }},
		{rule: ruleBeacon, record: func(r *evidenceRecord) { r.Beacon = b.word }},
		{rule: ruleHead, record: func(r *evidenceRecord) { r.Seq += 1 }},
		{rule: ruleHead, record: func(r *evidenceRecord) { r.Epoch = 2 }},
		{rule: ruleHead, record: func(r *evidenceRecord) { r.Seq = first.seq }}, // before second
		{rule: "quote-nonce", record: func(r *evidenceRecord) { r.Head[0]++ }},
		{rule: "quote-nonce", record: func(r *evidenceRecord) { r.Beacon = b.beacon(t).Raw }},
		{rule: "evidence-format", record: func(r *evidenceRecord) { r.Evidence = nil }},
		{rule: "node-key", change: func(x *exhibit) { x.endorsement = b.endorsedFor(t, stranger) }},
		{rule: "boot-log-hash", change: func(x *exhibit) { x.log = func([32]byte) []byte { return nil } }},
	} {
		var changes []func(*evidenceRecord)
		if tt.record != nil {
			changes = append(changes, tt.record)
		}
		x := b.exhibit(b.evidence(t, beacon, changes...), second)
		if tt.change != nil {
			tt.change(&x)
		}
		if j := judge(now(), x); j.rule != tt.rule || j.proven || j.detail == "" {
			t.Errorf("%s: refused by %q: %s", tt.rule, j.rule, j.detail)
		}
		if !slices.Contains(evidenceRules(), tt.rule) {
			t.Errorf("%s is no rule", tt.rule)
		}
	}
	// Evidence bound to a beacon long gone is no news, but not a lie either.
	x := b.exhibit(b.evidence(t, beacon), second)
	x.newest = beacon.Version + maxBehind + 1
	if j := judge(now(), x); j.rule != "" || !j.at.Equal(second.at) {
		t.Errorf("old beacon: %+v", j)
	}
	if err := b.device.Extend(8, [32]byte{7}); err != nil {
		t.Fatal(err)
	}
	j := judge(now(), b.exhibit(b.evidence(t, beacon), second))
	if rule, _ := j.refusal(); rule != "boot-log-replay" || j.at.IsZero() {
		t.Errorf("tampered: %+v", j)
	}
	// What was proven before the refusal is what the next must not fall behind.
	if next := judge(now(), b.exhibit(b.evidence(t, beacon), j)); next.earlier == nil || !next.earlier.proven {
		t.Errorf("after a refusal: %+v", next.earlier)
	}
}

func TestFinding(t *testing.T) {
	t0 := time.Unix(1_790_000_000, 0)
	const interval = 10 * time.Second
	seen := judgement{record: feed.ID{1}, proven: true, decision: policy.Decision{Allow: true}, at: t0}
	refused := seen
	refused.rule = "quote-nonce"
	denied := seen
	denied.decision = policy.Decision{Rule: "secure-boot"}
	for _, tt := range []struct {
		name      string
		j         judgement
		connected time.Time
		after     time.Duration
		interval  time.Duration
		want      string
	}{
		{"good", seen, t0, 25 * time.Second, interval, ""},
		{"stale", seen, t0, 26 * time.Second, interval, ruleStale},
		{"not connected", seen, time.Time{}, time.Hour, interval, ""},
		{"connected again", seen, t0.Add(time.Hour), time.Hour + time.Second, interval, ""},
		{"never seen, new", judgement{}, t0, 20 * time.Second, interval, ""},
		{"never seen", judgement{}, t0, 26 * time.Second, interval, ruleMissing},
		{"never expected", judgement{}, t0, time.Hour, 0, ""},
		{"refused", refused, t0, 0, interval, "quote-nonce"},
		{"refused and gone", refused, time.Time{}, time.Hour, interval, "quote-nonce"},
		{"denied", denied, t0, 0, interval, "secure-boot"},
	} {
		if got, _ := tt.j.finding(t0.Add(tt.after), tt.connected, tt.interval); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestPace(t *testing.T) {
	t0 := time.Unix(1_790_000_000, 0)
	p := pace{interval: 8 * time.Second, offset: time.Second}
	for _, step := range []struct {
		at     time.Duration
		beacon uint64
		want   bool
	}{
		{0, 0, false}, // nothing to bind to
		{1, 1, true},  // the first at once
		{2, 1, false}, {8, 2, false}, {9, 2, true}, {10, 2, false},
		{18, 2, false}, {19, 2, true}, // none comes: bound to the last, after 1.25 intervals
		{20, 3, false}, {26, 3, false}, {27, 3, true}, // one interval after the last, not sooner
		{29, 4, false}, {31, 5, false}, {33, 6, false}, {34, 6, false}, // beacons come more often than quotes
		{35, 7, true}, {36, 8, false}, {42, 11, false}, {43, 11, true},
	} {
		now := t0.Add(step.at * time.Second)
		got := p.due(now, step.beacon)
		if got != step.want {
			t.Errorf("%ds: %v, want %v", step.at, got, step.want)
		}
		if got {
			p.quoted, p.quotedAt = step.beacon, now
		}
	}
}

// The checkpoints of a region come every minute at the latest, so that what is signed under a
// certificate is covered in time.
func TestBeaconEvery(t *testing.T) {
	for quotes, want := range map[time.Duration]time.Duration{
		0: time.Minute, time.Second: time.Second, time.Minute: time.Minute, 10 * time.Minute: time.Minute, 24 * time.Hour: time.Minute,
	} {
		if got := beaconEvery(quotes); got != want || got > feed.CoverGrace/4 {
			t.Errorf("quotes every %s: beacons every %s, want %s", quotes, got, want)
		}
	}
}

func TestBootLogParts(t *testing.T) {
	for _, size := range []int{1, logPart, logPart + 1, maxLogParts * logPart} {
		log := make([]byte, size)
		rand.Read(log)
		parts, err := splitLog(log)
		if err != nil {
			t.Fatal(err)
		}
		part := func(i int) ([]byte, bool) {
			if i >= len(parts) {
				return nil, false
			}
			if err := attestationSchema(logPrefix+"0", parts[i]); err != nil || len(parts[i]) > feed.MaxValue {
				t.Errorf("part of %d bytes: %v", len(parts[i]), err)
			}
			return parts[i], true
		}
		if got := joinLog(sha256.Sum256(log), part); !slices.Equal(got, log) {
			t.Errorf("%d bytes came back as %d", size, len(got))
		}
		if joinLog([32]byte{}, part) != nil {
			t.Error("a log of another hash")
		}
		parts = parts[:len(parts)-1]
		if joinLog(sha256.Sum256(log), part) != nil {
			t.Error("a log that lacks its end")
		}
	}
	for _, size := range []int{0, maxLogParts*logPart + 1} {
		if _, err := splitLog(make([]byte, size)); err == nil {
			t.Errorf("%d bytes can be split", size)
		}
	}
	for _, name := range []string{"", "other", "log.", "log.-1", "log.01", "log.16", "log.x"} {
		if attestationSchema(name, nil) == nil {
			t.Errorf("name %q is taken", name)
		}
	}
}

func FuzzAttestationSchema(f *testing.F) {
	f.Add("current", []byte{0xa0})
	f.Add("endorsement", []byte{0xd2})
	f.Add("log.0", []byte{0xa0})
	f.Fuzz(func(t *testing.T, name string, value []byte) {
		if attestationSchema(name, value) == nil && len(value) > feed.MaxValue {
			t.Errorf("%s takes %d bytes", name, len(value))
		}
	})
}

// TestJudgeClearedTPM: a clear begins the TPM's counts anew and takes the node key with
// it. Evidence from before the new endorsement is no measure any more; otherwise it is.
func TestJudgeClearedTPM(t *testing.T) {
	b, now := newBench(t), time.Now
	before := judge(now(), b.exhibit(b.evidence(t, b.beacon(t)), judgement{}))
	before.claims.ResetCount += 5
	e := b.evidence(t, b.beacon(t))
	if j := judge(now(), b.exhibit(e, before)); j.rule != "quote-reset" {
		t.Errorf("fewer resets, the same key: %q %s", j.rule, j.detail)
	}
	before.endorsement.NodeKey[0]++
	if j := judge(now(), b.exhibit(e, before)); !j.proven {
		t.Errorf("after a clear: %q %s", j.rule, j.detail)
	}
}
