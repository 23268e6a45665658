// The kernels that turn rows into columns; part of kernels_body.hpp, which see.

// The numbers of all lanes, as arguments of a template.
template <int... Lane>
struct Lanes {};
template <int Count, int... Lane>
struct LanesUpTo : LanesUpTo<Count - 1, Count - 1, Lane...> {};
template <int... Lane>
struct LanesUpTo<0, Lane...> {
    using type = Lanes<Lane...>;
};

// Swaps the blocks of Step lanes off the diagonal, of every two rows Step apart.
template <int Step, class V, int... Lane>
inline void swap_blocks(V* rows, Lanes<Lane...>) {
    constexpr int count = sizeof...(Lane);
    for (int i = 0; i < count; ++i) {
        if ((i & Step) != 0) continue;
        const V x = rows[i], y = rows[i + Step];
        rows[i] = __builtin_shufflevector(x, y, ((Lane & Step) != 0 ? count + Lane - Step : Lane)...);
        rows[i + Step] = __builtin_shufflevector(x, y, ((Lane & Step) != 0 ? count + Lane : Lane + Step)...);
    }
}

// A square of as many rows as V has lanes.
template <class V, std::int64_t Count>
inline void transpose(V* rows) {
    constexpr typename LanesUpTo<static_cast<int>(Count)>::type lanes;
    swap_blocks<1>(rows, lanes);
    if constexpr (Count >= 4) swap_blocks<2>(rows, lanes);
    if constexpr (Count >= 8) swap_blocks<4>(rows, lanes);
    if constexpr (Count == 16) swap_blocks<8>(rows, lanes);
}

template <class T>
void turn(const T* from, std::int64_t across, T* to, std::int64_t stride) {
    constexpr auto bytes = static_cast<std::int64_t>(sizeof(D)), size = static_cast<std::int64_t>(sizeof(T));
    if constexpr (size >= 4) {
        constexpr std::int64_t lanes = bytes / size;
        using V = typename VectorOfLanes<T, lanes>::type;
        for (std::int64_t i = 0; i < kTurned; i += lanes)
            for (std::int64_t j = 0; j < kTurned; j += lanes) {
                V square[lanes];
                for (std::int64_t l = 0; l < lanes; ++l) square[l] = load<V>(from + i + (j + l) * across);
                transpose<V, lanes>(square);
                for (std::int64_t l = 0; l < lanes; ++l) store(to + (i + l) * stride + j, square[l]);
            }
    } else {
        for (std::int64_t j = 0; j < kTurned; ++j)
            for (std::int64_t i = 0; i < kTurned; ++i) to[i * stride + j] = from[i + j * across];
    }
}
