package link

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/quic-go/quic-go"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"golang.org/x/time/rate"
)

// Config says what a Link needs. SVID, Bundles and Authorize are required.
type Config struct {
	// Listen is the UDP address, host:port. Port 0 picks a free one. Unused
	// where PacketConn is set.
	Listen string
	// SVID is this node's own X509-SVID; asked for once a handshake.
	SVID x509svid.Source
	// Bundles are the trust bundles peers are verified with. A trust domain it
	// does not know is foreign and refused.
	Bundles x509bundle.Source
	// Authorize says whether a verified node is welcome. Its error is told to
	// the peer. It is called at every handshake and Recheck, from many
	// goroutines, and must not block. Nil refuses everyone.
	Authorize func(spiffeid.ID) error
	// Refuse, where set, names addresses whose packets are lost, both ways. It
	// is for partitions in dev fleets and tests and costs throughput.
	Refuse func(netip.AddrPort) bool
	// ResetKey, where it is the same over restarts, lets peers know at once that
	// connections to an earlier process of this node are gone (RFC 9000 section
	// 10.3): they need not wait for their idle timeout. Nil: they do. Keep it
	// secret: who has it can end connections.
	ResetKey *[32]byte
	// Log may be nil: nothing is logged then.
	Log *slog.Logger
	// Metrics may be nil.
	Metrics prometheus.Registerer
	// PacketConn, where set, is used instead of a socket of our own. Close
	// closes it.
	PacketConn net.PacketConn
}

// What both kinds of connection share. A dead peer is noticed after maxIdle.
const (
	keepAlive      = 3 * time.Second
	maxIdle        = 10 * time.Second
	handshakeIdle  = 5 * time.Second
	maxStreams     = 1024 // streams a peer may have open at once on one connection
	recheckEvery   = 30 * time.Second
	connIDLen      = 8
	refusalsLogged = 5 // refused handshakes logged a second; the rest are only counted
)

func (l *Link) quicConfig() *quic.Config {
	return &quic.Config{
		HandshakeIdleTimeout:  handshakeIdle,
		MaxIdleTimeout:        maxIdle,
		KeepAlivePeriod:       keepAlive,
		MaxIncomingStreams:    maxStreams,
		MaxIncomingUniStreams: 1, // the hello
		EnableDatagrams:       true,
		Allow0RTT:             false,
	}
}

// Link is the socket and all connections over it. Make one with Listen.
type Link struct {
	cfg      Config
	log      *slog.Logger
	m        metrics
	instance [16]byte // tells this process from an earlier one of the same node
	socket   net.PacketConn
	tr       *quic.Transport
	ln       *quic.Listener
	gate     gate
	refusals *rate.Limiter

	ctx      context.Context // ends when Close begins
	stop     context.CancelFunc
	wg       sync.WaitGroup // every goroutine of this package but the notifier and handlers
	notified chan struct{}  // closed when the notifier has ended

	mu        sync.Mutex // guards all below; held for map operations only, never over I/O or a callback
	closed    bool       // Close has begun
	finished  bool       // and every goroutine of wg has ended
	sessions  map[*session]struct{}
	peers     map[spiffeid.ID]*peer
	dials     map[dialKey]*dialing
	streams   map[string]func(context.Context, spiffeid.ID, *Stream)
	datagrams [256]func(spiffeid.ID, []byte)
	onPeer    []func(spiffeid.ID, bool)
	events    []peerEvent
	wake      chan struct{}
	tunnels   tunnelHooks
}

// Listen opens the socket. Connections are accepted once Run runs; dialling
// works at once. Register handlers before either. Errors: ErrPortBusy, or what
// the address or the metrics registry said.
func Listen(cfg Config) (*Link, error) {
	if cfg.SVID == nil || cfg.Bundles == nil {
		return nil, errors.New("mesh/link: Config.SVID and Config.Bundles are required")
	}
	m, err := newMetrics(cfg.Metrics)
	if err != nil {
		return nil, err
	}
	l := &Link{
		cfg: cfg, log: cfg.Log, m: m,
		refusals: rate.NewLimiter(refusalsLogged, refusalsLogged),
		notified: make(chan struct{}),
		wake:     make(chan struct{}, 1),
		sessions: make(map[*session]struct{}),
		peers:    make(map[spiffeid.ID]*peer),
		dials:    make(map[dialKey]*dialing),
		streams:  make(map[string]func(context.Context, spiffeid.ID, *Stream)),
	}
	if l.log == nil {
		l.log = slog.New(slog.DiscardHandler)
	}
	_, _ = rand.Read(l.instance[:]) // never fails (crypto/rand)
	if l.socket = cfg.PacketConn; l.socket == nil {
		if l.socket, err = open(cfg.Listen); err != nil {
			return nil, err
		}
	}
	conn := l.socket
	if cfg.Refuse != nil {
		conn = partition{PacketConn: conn, refuse: cfg.Refuse}
	}
	l.tr = &quic.Transport{
		Conn:                conn,
		ConnectionIDLength:  connIDLen,
		VerifySourceAddress: l.gate.suspicious,
		ConnContext:         l.connContext,
		StatelessResetKey:   (*quic.StatelessResetKey)(cfg.ResetKey),
	}
	l.ctx, l.stop = context.WithCancel(context.Background()) // before the first packet can come
	if l.ln, err = l.tr.Listen(l.serverTLS(), l.quicConfig()); err != nil {
		l.stop()
		_ = l.socket.Close()
		return nil, fmt.Errorf("listen for QUIC on %s: %w", cfg.Listen, err)
	}
	go l.notify()
	return l, nil
}

func open(listen string) (net.PacketConn, error) {
	addr, err := net.ResolveUDPAddr("udp", listen)
	if err != nil {
		return nil, fmt.Errorf("listen address %q: %w", listen, err)
	}
	conn, err := net.ListenUDP("udp", addr)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("%s: %w", listen, ErrPortBusy)
	case err != nil:
		return nil, fmt.Errorf("listen on %s: %w", listen, err)
	}
	return conn, nil
}

// Addr returns the UDP address of the socket.
func (l *Link) Addr() netip.AddrPort { return addrPort(l.socket.LocalAddr()) }

// Run accepts connections until ctx or the link ends, then closes the link. It
// returns nil unless the socket failed.
func (l *Link) Run(ctx context.Context) error {
	defer l.Close()
	if !l.spawn(l.recheckLoop, nil) {
		return nil
	}
	for {
		qc, err := l.ln.Accept(ctx)
		switch {
		case err == nil:
			if !l.spawn(func() { l.admit(qc) }, nil) {
				return nil
			}
		case ctx.Err() != nil || l.ctx.Err() != nil:
			return nil
		default:
			return fmt.Errorf("accept on %s: %w", l.Addr(), explain(err))
		}
	}
}

func (l *Link) recheckLoop() {
	tick := time.NewTicker(recheckEvery)
	defer tick.Stop()
	for {
		select {
		case <-l.ctx.Done():
			return
		case <-tick.C:
			l.Recheck()
		}
	}
}

// Close tells every peer that this node stops, frees the socket and waits for
// what it started, but not for stream handlers. It may be called again. Do not
// call it from a callback.
func (l *Link) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		<-l.notified
		return nil
	}
	l.closed = true
	live := make([]*session, 0, len(l.sessions))
	for s := range l.sessions {
		live = append(live, s)
	}
	l.mu.Unlock()
	l.stop()
	var ends sync.WaitGroup
	for _, s := range live {
		ends.Go(func() { s.end(codeStopping, "the node is stopping") })
	}
	ends.Wait()
	_ = l.ln.Close()
	err := errors.Join(l.tr.Close(), l.socket.Close())
	l.wg.Wait()
	l.mu.Lock()
	l.finished = true
	l.mu.Unlock()
	l.poke()
	<-l.notified
	return err
}

// spawn runs fn in a goroutine that Close waits for, after first under the
// lock. It does neither, and says false, when the link is closed.
func (l *Link) spawn(fn, first func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	if first != nil {
		first()
	}
	l.wg.Go(fn)
	return true
}

// refused counts and, within limits, logs a handshake that came to nothing.
func (l *Link) refused(kind, side string, addr netip.AddrPort, err error) {
	result := "failed"
	switch {
	case errors.Is(err, ErrUnauthorized), errors.Is(err, ErrWrongPeer):
		result = "refused_here"
	case errors.Is(err, ErrPeerRefused):
		result = "refused_by_peer"
	case errors.Is(err, ErrUnreachable):
		result = "unreachable"
	}
	l.m.handshakes.WithLabelValues(kind, side, result).Inc()
	if side == "accept" && l.ctx.Err() == nil && l.refusals.Allow() {
		l.log.Warn("refused a connection", "kind", kind, "from", addr.String(), "err", err)
	}
}
