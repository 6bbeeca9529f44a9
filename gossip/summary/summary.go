package summary

import (
	"crypto"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
)

// MaxSize is the largest carried summary, in bytes: it has to fit one gossiped value.
const MaxSize = 15 << 10

const (
	maxCert     = 4 << 10
	maxServices = 256
	maxIDs      = 16
	maxOwners   = 64
	maxRevision = 128
	maxCounts   = 16
)

var statementType = statement.Type{Name: "summary", Version: 1}

var (
	// ErrMalformed means bytes are no summary, or break its bounds. The sender is
	// at fault.
	ErrMalformed = errors.New("malformed summary")

	// ErrForeign means a summary speaks of another trust domain than its signer's.
	ErrForeign = errors.New("summary speaks for another trust domain")

	// ErrSigner means the certificate or the signature does not verify here.
	// Refresh the trust record of that region; else the sender is at fault.
	ErrSigner = errors.New("summary is not signed by a gateway known here")

	// ErrTooLarge means a region has more services than one summary holds. Merge
	// service names or owners; nothing was published.
	ErrTooLarge = errors.New("region summary is too large")
)

// Content is what a gateway says of its region.
type Content struct {
	Region   string         // short label, at most 63 bytes
	Nodes    map[string]int // nodes by standing
	Services []Service      // sorted by name by Build
	Frontier [32]byte       // root of the region's frontier as the gateway holds it
	Policy   string         // active policy revision, at most 128 bytes
	Behind   int            // of all nodes, those that do not enforce the newest policy for them
}

// Members is how many nodes the region has, of whatever standing.
func (c Content) Members() (n int) {
	for _, of := range c.Nodes {
		n += of
	}
	return n
}

// Service is one service of the region and where it is reachable.
type Service struct {
	Name    string        // 1 to 63 bytes
	IDs     []spiffeid.ID // workloads that may answer to it, at most 16
	Owners  []Owner       // nodes that run it, at most 64
	Healthy int           // how many of them are healthy
}

// Owner is a node that runs a service, and the address of its link.
type Owner struct {
	Node spiffeid.ID
	Addr netip.AddrPort
}

// Summary is one that verified. Only Verify makes one with a gateway.
type Summary struct {
	Content
	Gateway spiffeid.ID
	Epoch   uint64
	Number  uint64
	At      time.Time // by the gateway's clock, to the millisecond
	Raw     []byte    // the carried bytes, exactly as received
}

// Key is what an epoch certificate says of its holder.
type Key struct {
	ID     spiffeid.ID
	Epoch  uint64
	Public *ecdsa.PublicKey
}

// KeyFunc verifies an epoch certificate, given as DER, and decides whether its
// holder may be a gateway. The app gives it.
type KeyFunc func(cert []byte) (Key, error)

type carried struct {
	Cert      []byte `cbor:"1,keyasint"`
	Statement []byte `cbor:"2,keyasint"`
}

type payload struct {
	Region   string            `cbor:"1,keyasint"`
	Gateway  string            `cbor:"2,keyasint"`
	Epoch    uint64            `cbor:"3,keyasint"`
	Number   uint64            `cbor:"4,keyasint"`
	At       int64             `cbor:"5,keyasint"`
	Nodes    map[string]uint32 `cbor:"6,keyasint,omitempty"`
	Services []serviceWire     `cbor:"7,keyasint,omitempty"`
	Frontier [32]byte          `cbor:"8,keyasint"`
	Policy   string            `cbor:"9,keyasint,omitempty"`
	Behind   uint32            `cbor:"10,keyasint,omitempty"`
}

type serviceWire struct {
	Name    string      `cbor:"1,keyasint"`
	IDs     []string    `cbor:"2,keyasint,omitempty"`
	Owners  []ownerWire `cbor:"3,keyasint,omitempty"`
	Healthy uint32      `cbor:"4,keyasint"`
}

type ownerWire struct {
	Node string `cbor:"1,keyasint"`
	Addr string `cbor:"2,keyasint"`
}

// Build signs a summary with the gateway's epoch key, whose certificate is cert.
// Errors wrap ErrMalformed, ErrForeign, ErrTooLarge or the signer's.
func Build(key crypto.Signer, cert []byte, gateway spiffeid.ID, epoch, number uint64, at time.Time, c Content) ([]byte, error) {
	p := payload{
		Region: c.Region, Gateway: gateway.String(), Epoch: epoch, Number: number, At: at.UnixMilli(),
		Nodes: map[string]uint32{}, Frontier: c.Frontier, Policy: c.Policy, Behind: uint32(c.Behind),
	}
	for standing, n := range c.Nodes {
		p.Nodes[standing] = uint32(n)
	}
	for _, s := range c.Services {
		w := serviceWire{Name: s.Name, Healthy: uint32(s.Healthy)}
		for _, id := range s.IDs {
			w.IDs = append(w.IDs, id.String())
		}
		slices.Sort(w.IDs)
		for _, o := range s.Owners {
			w.Owners = append(w.Owners, ownerWire{o.Node.String(), o.Addr.String()})
		}
		slices.SortFunc(w.Owners, func(a, b ownerWire) int { return strings.Compare(a.Node, b.Node) })
		p.Services = append(p.Services, w)
	}
	slices.SortFunc(p.Services, func(a, b serviceWire) int { return strings.Compare(a.Name, b.Name) })
	if _, err := p.parse(); err != nil {
		return nil, err
	}
	b, err := statement.Marshal(p)
	if err != nil {
		return nil, err
	}
	if len(b)+len(cert)+96 > MaxSize { // what the envelopes add
		return nil, fmt.Errorf("%w: %d bytes with the certificate, at most %d", ErrTooLarge, len(b)+len(cert), MaxSize-96)
	}
	signed, err := statement.Sign(key, statementType, gateway.TrustDomain().Name(), b)
	if err != nil {
		return nil, err
	}
	return statement.Marshal(carried{cert, signed})
}

// Verify reads a carried summary. It needs nothing but the record roots behind
// keys: not the peer it came from, nor what came before. Errors wrap
// ErrMalformed, ErrForeign or ErrSigner.
func Verify(raw []byte, keys KeyFunc) (Summary, error) {
	if len(raw) > MaxSize {
		return Summary{}, fmt.Errorf("%w: %d bytes, at most %d", ErrMalformed, len(raw), MaxSize)
	}
	var c carried
	if err := statement.Unmarshal(raw, &c); err != nil {
		return Summary{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if len(c.Cert) > maxCert {
		return Summary{}, fmt.Errorf("%w: certificate of %d bytes, at most %d", ErrMalformed, len(c.Cert), maxCert)
	}
	env, err := statement.Parse(c.Statement)
	if err != nil {
		return Summary{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if keys == nil {
		return Summary{}, fmt.Errorf("%w: no keys", ErrSigner)
	}
	key, err := keys(c.Cert)
	if err != nil {
		return Summary{}, fmt.Errorf("%w: %w", ErrSigner, err)
	}
	if err := env.Verify(key.Public, statementType, key.ID.TrustDomain().Name()); err != nil {
		return Summary{}, fmt.Errorf("%w: %w", ErrSigner, err)
	}
	var p payload
	if err := statement.Unmarshal(env.Payload(), &p); err != nil {
		return Summary{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	s, err := p.parse()
	if err != nil {
		return Summary{}, err
	}
	if s.Gateway != key.ID || s.Epoch != key.Epoch {
		return Summary{}, fmt.Errorf("%w: %s epoch %d signed as %s epoch %d", ErrForeign, key.ID, key.Epoch, s.Gateway, s.Epoch)
	}
	s.Raw = raw
	return s, nil
}

// parse holds a payload to its bounds.
func (p payload) parse() (Summary, error) {
	gateway, err := spiffeid.FromString(p.Gateway)
	if err != nil {
		return Summary{}, fmt.Errorf("%w: gateway: %w", ErrMalformed, err)
	}
	switch {
	case len(p.Region) == 0 || len(p.Region) > 63:
		return Summary{}, fmt.Errorf("%w: region %q", ErrMalformed, p.Region)
	case p.Epoch == 0 || p.Number == 0 || p.At < 0 || p.At > maxMillis:
		return Summary{}, fmt.Errorf("%w: epoch %d, number %d, time %d", ErrMalformed, p.Epoch, p.Number, p.At)
	case len(p.Nodes) > maxCounts || len(p.Policy) > maxRevision:
		return Summary{}, fmt.Errorf("%w: %d standings, policy revision of %d bytes", ErrMalformed, len(p.Nodes), len(p.Policy))
	case len(p.Services) > maxServices:
		return Summary{}, fmt.Errorf("%w: %d services, at most %d", ErrTooLarge, len(p.Services), maxServices)
	}
	s := Summary{
		Content: Content{Region: p.Region, Nodes: map[string]int{}, Frontier: p.Frontier, Policy: p.Policy, Behind: int(p.Behind)},
		Gateway: gateway, Epoch: p.Epoch, Number: p.Number, At: time.UnixMilli(p.At).UTC(),
	}
	for standing, n := range p.Nodes {
		if len(standing) == 0 || len(standing) > 32 {
			return Summary{}, fmt.Errorf("%w: standing %q", ErrMalformed, standing)
		}
		s.Nodes[standing] = int(n)
	}
	if s.Behind > s.Members() {
		return Summary{}, fmt.Errorf("%w: %d nodes behind of %d", ErrMalformed, s.Behind, s.Members())
	}
	for i, w := range p.Services {
		if i > 0 && w.Name <= p.Services[i-1].Name {
			return Summary{}, fmt.Errorf("%w: service %q twice or out of order", ErrMalformed, w.Name)
		}
		service, err := w.parse(gateway.TrustDomain())
		if err != nil {
			return Summary{}, fmt.Errorf("service %q: %w", w.Name, err)
		}
		s.Services = append(s.Services, service)
	}
	return s, nil
}

const maxMillis = 253402300799999 // the end of the year 9999

func (w serviceWire) parse(td spiffeid.TrustDomain) (Service, error) {
	if len(w.Name) == 0 || len(w.Name) > 63 || len(w.IDs) > maxIDs || len(w.Owners) > maxOwners || int(w.Healthy) > len(w.Owners) {
		return Service{}, fmt.Errorf("%w: %d identities, %d owners, %d healthy", ErrMalformed, len(w.IDs), len(w.Owners), w.Healthy)
	}
	s := Service{Name: w.Name, Healthy: int(w.Healthy)}
	for i, raw := range w.IDs {
		if i > 0 && raw <= w.IDs[i-1] {
			return Service{}, fmt.Errorf("%w: %q twice or out of order", ErrMalformed, raw)
		}
		id, err := member(raw, td)
		if err != nil {
			return Service{}, err
		}
		s.IDs = append(s.IDs, id)
	}
	for i, o := range w.Owners {
		if i > 0 && o.Node <= w.Owners[i-1].Node {
			return Service{}, fmt.Errorf("%w: %q twice or out of order", ErrMalformed, o.Node)
		}
		id, err := member(o.Node, td)
		if err != nil {
			return Service{}, err
		}
		addr, err := netip.ParseAddrPort(o.Addr)
		if err != nil || addr.String() != o.Addr {
			return Service{}, fmt.Errorf("%w: address %q", ErrMalformed, o.Addr)
		}
		s.Owners = append(s.Owners, Owner{id, addr})
	}
	return s, nil
}

// member reads an ID of the trust domain.
func member(raw string, td spiffeid.TrustDomain) (spiffeid.ID, error) {
	id, err := spiffeid.FromString(raw)
	if err != nil {
		return spiffeid.ID{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if id.TrustDomain() != td {
		return spiffeid.ID{}, fmt.Errorf("%w: %s in a summary of %s", ErrForeign, id, td)
	}
	return id, nil
}
