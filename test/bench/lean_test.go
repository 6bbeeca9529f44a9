package main

import (
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
)

// A call that has no answer says why: the server's status, by name and in its words.
func TestLeanSaysWhy(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
		method, _ := grpc.MethodFromServerStream(stream)
		if err := stream.RecvMsg(&emptypb.Empty{}); err != nil {
			return err
		}
		switch method {
		case "/test/Locked":
			return status.Error(codes.Internal, "database is locked: 5%")
		case "/test/Silent":
			return nil
		}
		return stream.SendMsg(&emptypb.Empty{})
	}))
	go server.Serve(listener)
	defer server.Stop()
	conn, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c := newLean(conn)
	defer c.close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	for _, tc := range []struct {
		method string
		want   string // of the error; "" is none
	}{
		{"/test/Fine", ""},
		{"/test/Locked", "Internal: database is locked: 5%"},
		{"/test/Fine", ""}, // the status of one call is not that of the next
		{"/test/Silent", `gRPC status "0"`},
		{"/test/Locked", "Internal: database is locked: 5%"}, // by the connection's table of headers
	} {
		err := c.call(tc.method, &emptypb.Empty{}, &emptypb.Empty{})
		if tc.want == "" {
			if err != nil {
				t.Errorf("%s: %v", tc.method, err)
			}
		} else if !errors.Is(err, errNoAnswer) || !strings.HasSuffix(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", tc.method, err, tc.want)
		}
	}
}
