# syntax=docker/dockerfile:1
FROM rust:1.95.0-slim-bookworm AS build
# The image's own toolchain is the pinned one; naming it keeps rustup from fetching the components that
# rust-toolchain.toml lists for development.
ENV RUSTUP_TOOLCHAIN=1.95.0
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --bin rollcall && cp target/release/rollcall /usr/local/bin/rollcall

FROM debian:bookworm-slim
# A fixed number, so that the owner of the data volume is the same in every version of the image.
RUN useradd --system --uid 7655 --no-create-home rollcall && install -d -o rollcall -g rollcall /data
COPY --from=build /usr/local/bin/rollcall /usr/local/bin/rollcall
USER rollcall
ENV ROLLCALL_DATA=/data ROLLCALL_LISTEN=0.0.0.0:7655
VOLUME /data
EXPOSE 7655
HEALTHCHECK --interval=5s --timeout=3s --start-period=60s CMD ["rollcall", "health"]
ENTRYPOINT ["rollcall"]
CMD ["serve"]
