package workloadapi

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"slices"
	"strconv"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

const (
	sdsService = "/envoy.service.secret.v3.SecretDiscoveryService/"
	maxNames   = 256 // of one subscription
)

// secretType is the only type of resource here.
var secretType = "type.googleapis.com/" + string((&tlsv3.Secret{}).ProtoReflect().Descriptor().FullName())

// sds is Envoy's secret discovery service, version 3, state of the world. It
// answers a stream as the xDS protocol has it: a request subscribes, or tells
// what became of the answer whose nonce it names.
type sds struct {
	secretv3.UnimplementedSecretDiscoveryServiceServer
	*Server
}

// FetchSecrets answers once.
func (s sds) FetchSecrets(ctx context.Context, req *discoveryv3.DiscoveryRequest) (*discoveryv3.DiscoveryResponse, error) {
	c, err := s.caller(ctx)
	if err != nil {
		return nil, err
	}
	resources, err := s.secrets(c, req)
	if err != nil {
		return nil, err
	}
	return &discoveryv3.DiscoveryResponse{TypeUrl: secretType, Resources: resources}, nil
}

// StreamSecrets answers every subscription, and again at every change.
func (s sds) StreamSecrets(stream secretv3.SecretDiscoveryService_StreamSecretsServer) error {
	c, err := callerOf(stream.Context())
	if err != nil {
		return err
	}
	requests, ended := receive(stream)
	sub := subscription{}
	for {
		changed := s.cfg.Source.Changed() // before secrets: a change during it is seen
		if sub.req != nil {
			if err := c.recheck(); err != nil {
				return err
			}
			resources, err := s.secrets(c, sub.req)
			if err != nil {
				return err
			}
			if resp := sub.answer(resources); resp != nil {
				if err := stream.Send(resp); err != nil {
					return err
				}
			}
		}
		select {
		case req := <-requests:
			if why := req.GetErrorDetail(); why != nil {
				s.log.Warn("SDS client refused what it was sent", "pid", c.PID, "names", req.GetResourceNames(), "err", why.GetMessage())
			}
			sub.take(req)
		case err := <-ended:
			return err
		case <-changed:
		case <-stream.Context().Done():
			return status.FromContextError(stream.Context().Err()).Err()
		case <-s.stopping:
			return status.Error(codes.Unavailable, "the node is stopping")
		}
	}
}

// receive reads a stream until it ends, which is told by ended, with nil where the
// client has said all it wanted to.
func receive(stream secretv3.SecretDiscoveryService_StreamSecretsServer) (<-chan *discoveryv3.DiscoveryRequest, <-chan error) {
	requests, ended := make(chan *discoveryv3.DiscoveryRequest), make(chan error, 1)
	go func() {
		for {
			req, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				err = nil
			}
			if err != nil || req == nil {
				ended <- err
				return
			}
			select {
			case requests <- req:
			case <-stream.Context().Done():
				return
			}
		}
	}()
	return requests, ended
}

// subscription is the state of one stream.
type subscription struct {
	req     *discoveryv3.DiscoveryRequest // the newest; nil before the first
	sent    []*anypb.Any                  // what the client has or refused
	fresh   bool                          // the names are not those of what was sent
	version int
	nonce   string
}

// take notes a request. One that answers something older than what was sent last
// says nothing about it and is left aside.
func (s *subscription) take(req *discoveryv3.DiscoveryRequest) {
	if s.nonce != "" && req.GetResponseNonce() != s.nonce {
		return
	}
	if s.req != nil && req.GetNode() == nil {
		req.Node = s.req.GetNode() // only the first request of a stream need say it
	}
	s.fresh = s.req == nil || !sameNames(s.req.GetResourceNames(), req.GetResourceNames())
	s.req = req
}

// answer returns what to send, nil if the client knows it all.
func (s *subscription) answer(resources []*anypb.Any) *discoveryv3.DiscoveryResponse {
	same := slices.EqualFunc(resources, s.sent, func(a, b *anypb.Any) bool { return proto.Equal(a, b) })
	if same && !s.fresh {
		return nil
	}
	s.version++
	s.sent, s.fresh, s.nonce = resources, false, rand.Text()
	return &discoveryv3.DiscoveryResponse{
		TypeUrl: secretType, VersionInfo: strconv.Itoa(s.version), Nonce: s.nonce, Resources: resources,
		ControlPlane: &corev3.ControlPlane{Identifier: "bailiwick"},
	}
}

func sameNames(a, b []string) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}
